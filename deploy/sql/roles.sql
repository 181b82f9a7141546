-- The roles of a region's database. Run once by a superuser before the first start; running it again changes nothing.
-- Passwords and pg_hba.conf are the operator's: these statements give none.
--
--   gocomet_owner   owns the database and applies migrations
--   gocomet_app     region-node at work: sees one tenant at a time, row-level security holds it to that
--   gocomet_system  region-node's background work over all tenants, by policies made for it
--   gocomet_sync    global-sync: log, directory and ledger
--   gocomet_move    what global-sync becomes to move a tenant to another region: sees the rows of that one
--
-- None is a superuser or bypasses row-level security. Statements are separated by empty lines, for `postgres --single -j`.

DO $$ BEGIN CREATE ROLE gocomet_owner LOGIN NOSUPERUSER NOBYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

DO $$ BEGIN CREATE ROLE gocomet_app LOGIN NOSUPERUSER NOBYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

DO $$ BEGIN CREATE ROLE gocomet_system LOGIN NOSUPERUSER NOBYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

DO $$ BEGIN CREATE ROLE gocomet_sync LOGIN NOSUPERUSER NOBYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

DO $$ BEGIN CREATE ROLE gocomet_move NOLOGIN NOSUPERUSER NOBYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

ALTER ROLE gocomet_sync NOINHERIT;

GRANT gocomet_move TO gocomet_sync;

-- What a tenant has left is erased table by table, without a search for references to each row of it.
GRANT SET ON PARAMETER session_replication_role TO gocomet_move;
