-- The history of PostgreSQL is divided by time of arrival; here it stays one table, and rows that are too old are deleted.
SELECT 1;
