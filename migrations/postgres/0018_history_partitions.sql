-- The history is divided by time of arrival, so that what is too old goes with its table. Nodes do it while they run
-- (shared/store/src/history/partitions): a large table is read through for it, which no start of a node shall wait for.
--
-- Programs from before this step erase an account's rows by their ctid, which tells rows of one table apart and not those of several: on
-- the divided table that would take rows of others. Such a statement is refused; a newer node erases the account.
CREATE OR REPLACE FUNCTION data_history_by_ctid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_query() LIKE '%ctid%' THEN
    RAISE EXCEPTION 'rows of the divided history cannot be told apart by ctid';
  END IF;
  RETURN NULL;
END $$;
