#!/bin/sh
# What PostgreSQL's image runs once, on an empty volume: the role DB_USER, as the README makes it.
# The superuser loses his password: he logs in within the container alone, without one.

set -e
psql -X -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv admin POSTGRES_USER
\getenv role DB_USER
\getenv password DB_PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
ALTER ROLE :"role" SET timezone = 'Asia/Kolkata';
GRANT CREATE ON SCHEMA public TO :"role";
ALTER ROLE :"admin" PASSWORD NULL;
SQL
