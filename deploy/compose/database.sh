#!/usr/bin/env bash
# Runs once, when a region's database is made, after roles.sql: gives every role its password and the owner its database.
set -euo pipefail
database=${POSTGRES_DB:?}
while IFS='=' read -r role password; do
    [ -n "$role" ] || continue
    # The password travels on standard input, so that no process list ever shows it.
    printf 'ALTER ROLE %s PASSWORD '"'%s'"';\n' "$role" "$password"
done <"${ROLES_FILE:-/run/secrets/roles.env}" | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname="$database"
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname="$database" <<END
ALTER DATABASE "$database" OWNER TO gocomet_owner;
REVOKE ALL ON DATABASE "$database" FROM PUBLIC;
GRANT CONNECT ON DATABASE "$database" TO gocomet_app, gocomet_system, gocomet_sync;
GRANT TEMPORARY ON DATABASE "$database" TO gocomet_sync, gocomet_move;
ALTER SCHEMA public OWNER TO gocomet_owner;
END
