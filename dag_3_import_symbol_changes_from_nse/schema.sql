-- NSE's list of symbol changes, as NSE gives it: one row for each change that was ever listed.
CREATE TABLE IF NOT EXISTS nse_symbol_change (
    company VARCHAR(255),
    old_symbol VARCHAR(50) NOT NULL,
    new_symbol VARCHAR(50) NOT NULL,
    changed_on DATE NOT NULL,
    last_updated TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (old_symbol, new_symbol, changed_on)
);
