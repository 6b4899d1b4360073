-- The lowest step that a program must know to work with these tables: 0, until a step removes what older programs use, and raises it
-- (README.md, rule 1). One row.
CREATE TABLE IF NOT EXISTS schema_needs (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  step BIGINT NOT NULL
);
INSERT INTO schema_needs (one, step) VALUES (1, 0) ON CONFLICT (one) DO NOTHING;
