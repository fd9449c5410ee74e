//! The tables and the trigger: what they are, and how they are made.

use tokio_postgres::error::SqlState;
use tokio_postgres::{SimpleColumn, SimpleQueryMessage};

use super::database::{Database, READ, WRITE};
use super::failed::Failed;
use super::rows::columns;

pub(super) const NO_TABLE: &str = "has no table `backends` that this role can see; \
    `edge-proxy backends add` or `edge-proxy run` creates it";

/// The side table's name.
pub(super) const STATE_TABLE: &str = "edgeproxy_backend_state";

pub(super) const NO_STATE: &str =
    "has no table `edgeproxy_backend_state` that this role can see, and none can be made";

/// Where the trigger tells of changes.
pub(super) const CHANNEL: &str = "edgeproxy_backends";

/// Every column of `backends`, with its definition where a table may lack it.
pub(super) const BACKENDS: [(&str, Option<&str>); 13] = [
    ("id", None),
    ("app", None),
    ("region", None),
    ("country", Some("TEXT NOT NULL DEFAULT ''")),
    ("wg_ip", None),
    ("port", None),
    ("healthy", Some("INTEGER NOT NULL DEFAULT 1")),
    ("weight", Some("INTEGER NOT NULL DEFAULT 1")),
    ("soft_limit", Some("INTEGER NOT NULL DEFAULT 100")),
    ("hard_limit", Some("INTEGER NOT NULL DEFAULT 150")),
    ("deleted", Some("INTEGER NOT NULL DEFAULT 0")),
    // Nobody knows when the rows that are there were made, so writers fill these two in.
    ("created_at", Some("TIMESTAMP WITH TIME ZONE")),
    ("updated_at", Some("TIMESTAMP WITH TIME ZONE")),
];

/// The columns of the side table, in the same form.
pub(super) const STATE: [(&str, Option<&str>); 4] = [
    ("id", None),
    ("generation", Some("BIGINT NOT NULL DEFAULT 0")),
    ("lease_expires_at", Some("BIGINT")),
    ("admin_state", Some("TEXT NOT NULL DEFAULT 'ready'")),
];

const CREATE_BACKENDS: &str = "
CREATE TABLE IF NOT EXISTS backends (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL,
    region TEXT NOT NULL,
    country TEXT NOT NULL,
    wg_ip TEXT NOT NULL,
    port INTEGER NOT NULL,
    healthy INTEGER NOT NULL DEFAULT 1,
    weight INTEGER NOT NULL DEFAULT 1,
    soft_limit INTEGER NOT NULL DEFAULT 100,
    hard_limit INTEGER NOT NULL DEFAULT 150,
    deleted INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_backends_healthy ON backends(healthy) WHERE deleted = 0;
CREATE INDEX IF NOT EXISTS idx_backends_region ON backends(region) WHERE deleted = 0;
";

/// Leases end at seconds since the Unix epoch; NULL = never.
const CREATE_STATE: &str = "
CREATE TABLE IF NOT EXISTS edgeproxy_backend_state (
    id TEXT PRIMARY KEY,
    generation BIGINT NOT NULL DEFAULT 0,
    lease_expires_at BIGINT,
    admin_state TEXT NOT NULL DEFAULT 'ready'
);
";

const HAS_TRIGGER: &str = "SELECT 1 FROM pg_catalog.pg_trigger \
    WHERE tgname = 'edgeproxy_backends_changed' AND tgrelid = to_regclass('backends')";

/// First what the trigger will do: where it fails, the trigger would make every write fail. And a
/// table that is being written to is waited for only so long as its writers may wait for us.
const CREATE_TRIGGER: &str = "
NOTIFY edgeproxy_backends;
SET LOCAL lock_timeout = 2000;
CREATE OR REPLACE FUNCTION edgeproxy_backends_changed() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NOTIFY edgeproxy_backends; RETURN NULL; END $$;
CREATE TRIGGER edgeproxy_backends_changed
AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON backends
FOR EACH STATEMENT EXECUTE PROCEDURE edgeproxy_backends_changed();
";

/// Held while tables are made, for one process at a time: "edgeprox" as a number.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7306078180877692792)";

/// Attempts at making what somebody else makes at the same time.
const ATTEMPTS: usize = 5;

/// Somebody made it at the same time: the next look finds it.
const COLLISIONS: [SqlState; 5] = [
    SqlState::UNIQUE_VIOLATION,
    SqlState::DUPLICATE_TABLE,
    SqlState::DUPLICATE_OBJECT,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::T_R_DEADLOCK_DETECTED,
];

/// Makes the tables that are missing. One that is there is somebody's, and stays as it is.
pub(super) async fn create(database: &Database) -> Result<(), Failed> {
    let has_backends = match probe(database, "backends").await {
        Ok(columns) => {
            check("backends", &BACKENDS, &columns)?;
            true
        }
        Err(failed) if failed.is(&[SqlState::UNDEFINED_TABLE]) => false,
        Err(failed) => return Err(failed),
    };
    if !has_backends {
        let both = format!("{CREATE_BACKENDS}{CREATE_STATE}");
        return make(database, None, &both).await.map_err(|failed| {
            failed.because("has no table `backends` that this role can see, and none can be made")
        });
    }
    let state = probe(database, STATE_TABLE).await;
    if state.is_err_and(|failed| failed.is(&[SqlState::UNDEFINED_TABLE])) {
        // A database that may only be read can still be served from: no side table, no leases.
        if let Err(failed) = make(database, None, CREATE_STATE).await {
            tracing::debug!("no table {STATE_TABLE}, so no leases: {}", failed.reason);
        }
    }
    Ok(())
}

/// Makes the side table, which a write needs.
pub(super) async fn create_state(database: &Database) -> Result<(), Failed> {
    make(database, None, CREATE_STATE).await.map_err(|failed| failed.because(NO_STATE))
}

/// Has the server tell of changes. An engine may know no triggers, and a role may not make them.
pub(super) async fn create_trigger(database: &Database) -> Result<(), Failed> {
    make(database, Some(HAS_TRIGGER), CREATE_TRIGGER).await
}

/// Executes statements in a transaction of their own, one process at a time, unless there is what
/// they make.
async fn make(database: &Database, present: Option<&str>, sql: &str) -> Result<(), Failed> {
    // Asked before as well: a role that may only read needs no lock.
    if let Some(present) = present
        && query(database, present).await?.iter().any(is_row)
    {
        return Ok(());
    }
    let mut lock = LOCK;
    let mut attempt = 1;
    loop {
        match make_once(database, lock, present, sql).await {
            // An engine without such locks.
            Err(failed)
                if lock == LOCK
                    && failed
                        .is(&[SqlState::FEATURE_NOT_SUPPORTED, SqlState::UNDEFINED_FUNCTION]) =>
            {
                lock = "SELECT 1";
            }
            Err(failed) if failed.is(&COLLISIONS) && attempt < ATTEMPTS => attempt += 1,
            made => return made,
        }
    }
}

async fn make_once(
    database: &Database,
    lock: &str,
    present: Option<&str>,
    sql: &str,
) -> Result<(), Failed> {
    let transaction = database.begin(WRITE).await?;
    let work = async {
        let made = async {
            transaction.run(lock).await?;
            if let Some(present) = present
                && transaction.run(present).await?.iter().any(is_row)
            {
                return Ok(());
            }
            transaction.run(sql).await.map(drop)
        };
        let made = made.await;
        transaction.end(made).await
    };
    database.answer(work).await
}

/// The columns of a table.
async fn probe(database: &Database, table: &str) -> Result<Vec<String>, Failed> {
    let answer = query(database, &format!("SELECT * FROM {table} LIMIT 0")).await?;
    Ok(columns(&answer).iter().map(|column| column.name().to_owned()).collect())
}

async fn query(database: &Database, sql: &str) -> Result<Vec<SimpleQueryMessage>, Failed> {
    let transaction = database.begin(READ).await?;
    let work = async {
        let answer = transaction.run(sql).await;
        transaction.end(answer).await
    };
    database.answer(work).await
}

/// That a table has the columns that it cannot do without.
pub(super) fn check(
    table: &str,
    wanted: &[(&str, Option<&str>)],
    present: &[impl Named],
) -> Result<(), Failed> {
    let needed = wanted.iter().filter(|(_, definition)| definition.is_none());
    for (name, _) in needed {
        if !present.iter().any(|column| column.name() == *name) {
            return Err(Failed::plain(format!("table {table} has no column {name}")));
        }
    }
    Ok(())
}

/// Something with a name, which a column has.
pub(super) trait Named {
    fn name(&self) -> &str;
}

impl Named for SimpleColumn {
    fn name(&self) -> &str {
        self.name()
    }
}

impl Named for String {
    fn name(&self) -> &str {
        self
    }
}

fn is_row(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(_))
}
