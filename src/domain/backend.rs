//! One backend as its operator describes it, and the one place where a raw row becomes one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::geo::Country;
use super::region::Region;

/// Longest id, app or region name, in bytes.
pub const MAX_NAME: usize = 128;
/// Largest weight; keeps `load x weight` far inside 64 bits.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName;

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 to {MAX_NAME} visible characters without spaces, quotes or commas")
    }
}

impl std::error::Error for BadName {}

/// Whether `text` can name a backend, an app or a region.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, ',' | '"' | '\'' | '`'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(BadName) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// A backend's name, unique in its registry.
    BackendId
}
name! {
    /// The name of an app: what a group of interchangeable backends serves.
    App
}

/// A backend, as the registry says it is. What this process observes of it is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique in the registry.
    pub id: BackendId,
    /// The app that it serves.
    pub app: App,
    /// Where it is.
    pub region: Region,
    /// The country that it is in; `None` = unknown.
    pub country: Option<Country>,
    /// Its address on the private network.
    pub wg_ip: IpAddr,
    /// Its TCP port, never 0.
    pub port: u16,
    /// `false` = drain: no new connections, open ones go on.
    pub healthy: bool,
    /// Share of its tier, 0 to [`MAX_WEIGHT`]; 0 = no new connections.
    pub weight: u32,
    /// Open connections from which farther tiers are preferred; 0 = none.
    pub soft_limit: u32,
    /// Open connections that are never exceeded; 0 = none.
    pub hard_limit: u32,
    /// `true` = drained and forgotten.
    pub deleted: bool,
    /// When the row was made, as the registry writes it.
    pub created_at: Option<String>,
    /// When the row was last said to change, as the registry writes it.
    pub updated_at: Option<String>,
    /// Present for a backend that registered itself and must renew.
    pub lease: Option<Lease>,
}

/// A registered backend's claim to its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Counts registrations: a late renewal of an earlier one does not revive it.
    pub generation: i64,
    /// Seconds since the Unix epoch; `None` = never expires.
    pub expires_at: Option<i64>,
    /// What an operator asked of it.
    pub admin_state: AdminState,
}

impl Lease {
    /// Whether it has ended at `unix_now` (seconds since the Unix epoch).
    #[must_use]
    pub fn has_ended(&self, unix_now: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= unix_now)
    }

    /// Whether `other` differs in nothing but when it ends: what a renewal changes.
    #[must_use]
    pub fn is_same_but_for_expiry(&self, other: &Self) -> bool {
        let Self { generation, expires_at, admin_state } = self;
        *generation == other.generation
            && expires_at.is_some() == other.expires_at.is_some()
            && *admin_state == other.admin_state
    }
}

/// What an operator asked of a registered backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// Takes connections.
    Ready,
    /// Takes no new connections.
    Drain,
    /// Takes no new connections; open ones are closed after the drain timeout.
    Maint,
}

impl AdminState {
    /// The word for it in stores.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

impl std::str::FromStr for AdminState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Ready, Self::Drain, Self::Maint];
        let known = all.into_iter().find(|state| state.as_str() == text);
        known.ok_or_else(|| format!("admin_state = {text:?}: must be ready, drain or maint"))
    }
}

/// Why a backend takes no new connections, by what is written about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// `deleted = 1`.
    Deleted,
    /// `healthy = 0`, or its admin state is drain or maint.
    Draining,
    /// `weight = 0`.
    WeightZero,
    /// Its lease has run out.
    LeaseExpired,
}

impl Ineligible {
    /// The word for it in explanations and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Draining => "draining",
            Self::WeightZero => "weight_zero",
            Self::LeaseExpired => "lease_expired",
        }
    }
}

impl Backend {
    /// Where it is dialled.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.wg_ip, self.port)
    }

    /// What operators ask of it: `healthy = 0` is a drain, whatever else they say.
    #[must_use]
    pub fn asked(&self) -> AdminState {
        match self.lease.as_ref().map(|lease| lease.admin_state) {
            None | Some(AdminState::Ready) if !self.healthy => AdminState::Drain,
            None => AdminState::Ready,
            Some(state) => state,
        }
    }

    /// Whether what is written about it lets it take new connections at `unix_now`
    /// (seconds since the Unix epoch).
    ///
    /// # Errors
    /// The first reason that does not.
    pub fn eligible(&self, unix_now: i64) -> Result<(), Ineligible> {
        let lease = self.lease.as_ref();
        if self.deleted {
            Err(Ineligible::Deleted)
        } else if !self.healthy || lease.is_some_and(|l| l.admin_state != AdminState::Ready) {
            Err(Ineligible::Draining)
        } else if self.weight == 0 {
            Err(Ineligible::WeightZero)
        } else if lease.is_some_and(|l| l.has_ended(unix_now)) {
            Err(Ineligible::LeaseExpired)
        } else {
            Ok(())
        }
    }

    /// Whether `other` differs in nothing but when its lease ends: what a renewal changes.
    #[must_use]
    pub fn is_same_but_for_expiry(&self, other: &Self) -> bool {
        // Taken apart, so that a field that comes later is not forgotten.
        let Self {
            id,
            app,
            region,
            country,
            wg_ip,
            port,
            healthy,
            weight,
            soft_limit,
            hard_limit,
            deleted,
            created_at,
            updated_at,
            lease,
        } = self;
        let is_same_lease = match (lease, &other.lease) {
            (Some(one), Some(other)) => one.is_same_but_for_expiry(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        is_same_lease
            && (id, app, region, country) == (&other.id, &other.app, &other.region, &other.country)
            && (wg_ip, port) == (&other.wg_ip, &other.port)
            && (healthy, deleted) == (&other.healthy, &other.deleted)
            && (weight, soft_limit, hard_limit)
                == (&other.weight, &other.soft_limit, &other.hard_limit)
            && (created_at, updated_at) == (&other.created_at, &other.updated_at)
    }
}

/// A row as a store gives it, before anything about it is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRow {
    /// Column `id`.
    pub id: Option<String>,
    /// Column `app`.
    pub app: Option<String>,
    /// Column `region`.
    pub region: Option<String>,
    /// Column `country`.
    pub country: Option<String>,
    /// Column `wg_ip`.
    pub wg_ip: Option<String>,
    /// Column `port`, as text when it is not a whole number.
    pub port: Option<Number>,
    /// Column `healthy`.
    pub healthy: Option<Number>,
    /// Column `weight`.
    pub weight: Option<Number>,
    /// Column `soft_limit`.
    pub soft_limit: Option<Number>,
    /// Column `hard_limit`.
    pub hard_limit: Option<Number>,
    /// Column `deleted`.
    pub deleted: Option<Number>,
    /// Column `created_at`.
    pub created_at: Option<String>,
    /// Column `updated_at`.
    pub updated_at: Option<String>,
    /// From the side table.
    pub lease: Option<Lease>,
}

/// What a store holds where a whole number belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// A whole number.
    Whole(i64),
    /// Anything else, as written.
    Other(String),
}

/// A row that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedRow {
    /// The row's id, or its place when it has none.
    pub row: String,
    /// What is wrong: column, value given, what is accepted.
    pub reason: String,
}

impl fmt::Display for SkippedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {}: {}", self.row, self.reason)
    }
}

/// Everything that is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow(pub Vec<BadColumn>);

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&columns.join("; "))
    }
}

impl std::error::Error for BadRow {}

/// What is wrong with one column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadColumn {
    /// Its name.
    pub column: &'static str,
    /// What it holds.
    pub given: String,
    /// What it may hold, to follow the words "must be".
    pub accepted: String,
}

impl fmt::Display for BadColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: must be {}", self.column, self.given, self.accepted)
    }
}

impl TryFrom<RawRow> for Backend {
    type Error = BadRow;

    /// Checks every column.
    ///
    /// # Errors
    /// All that is wrong with the row.
    fn try_from(row: RawRow) -> Result<Self, BadRow> {
        let mut wrong = Vec::new();
        let mut bad = |column, given, accepted: &str| {
            wrong.push(BadColumn { column, given, accepted: accepted.into() });
        };

        let id = name_column(row.id, "id", &mut bad);
        let app = name_column(row.app, "app", &mut bad);
        let region = name_column(row.region, "region", &mut bad);
        let country = match row.country.as_deref().map(str::trim) {
            None | Some("") => None,
            Some(code) => code.parse().ok().or_else(|| {
                bad("country", format!("{code:?}"), "empty or two letters (ISO 3166-1)");
                None
            }),
        };
        let wg_ip = row.wg_ip.as_deref().and_then(|text| text.trim().parse().ok());
        if wg_ip.is_none() {
            let given = row.wg_ip.map_or("NULL".into(), |ip| format!("{ip:?}"));
            bad("wg_ip", given, "an IP address (host names are not looked up)");
        }
        let limit = i64::from(i32::MAX);
        let port = number_column(row.port, None, "port", 1..=65_535, &mut bad);
        let healthy = number_column(row.healthy, Some(1), "healthy", 0..=1, &mut bad);
        let weight = number_column(row.weight, Some(1), "weight", 0..=MAX_WEIGHT.into(), &mut bad);
        let soft = number_column(row.soft_limit, Some(100), "soft_limit", 0..=limit, &mut bad);
        let hard = number_column(row.hard_limit, Some(150), "hard_limit", 0..=limit, &mut bad);
        let deleted = number_column(row.deleted, Some(0), "deleted", 0..=1, &mut bad);

        match (id, app, region, wg_ip) {
            (Some(id), Some(app), Some(region), Some(wg_ip)) if wrong.is_empty() => Ok(Self {
                id,
                app,
                region,
                country,
                wg_ip,
                port: u16::try_from(port).unwrap_or_default(),
                healthy: healthy == 1,
                weight,
                soft_limit: soft,
                hard_limit: hard,
                deleted: deleted == 1,
                created_at: row.created_at,
                updated_at: row.updated_at,
                lease: row.lease,
            }),
            _ => Err(BadRow(wrong)),
        }
    }
}

fn name_column<T: std::str::FromStr>(
    given: Option<String>,
    column: &'static str,
    bad: &mut impl FnMut(&'static str, String, &str),
) -> Option<T> {
    let parsed = given.as_deref().and_then(|text| text.trim().parse().ok());
    if parsed.is_none() {
        let shown = given.map_or("NULL".into(), |text| format!("{text:?}"));
        bad(column, shown, &BadName.to_string());
    }
    parsed
}

fn number_column(
    given: Option<Number>,
    default: Option<i64>,
    column: &'static str,
    accepted: std::ops::RangeInclusive<i64>,
    bad: &mut impl FnMut(&'static str, String, &str),
) -> u32 {
    let value = match &given {
        Some(Number::Whole(value)) => Some(*value),
        Some(Number::Other(_)) => None,
        None => default,
    };
    let fits =
        value.filter(|value| accepted.contains(value)).and_then(|value| u32::try_from(value).ok());
    fits.unwrap_or_else(|| {
        let shown = match given {
            Some(Number::Whole(value)) => value.to_string(),
            Some(Number::Other(text)) => format!("{text:?}"),
            None => "NULL".into(),
        };
        let range = format!("a whole number from {} to {}", accepted.start(), accepted.end());
        bad(column, shown, &range);
        0
    })
}

/// The addresses that an app's backends have taken, each by the first that came; deleted ones take
/// none.
#[derive(Debug, Default)]
pub struct Endpoints(HashMap<(App, SocketAddr), BackendId>);

impl Endpoints {
    /// Takes the address of `backend`.
    ///
    /// # Errors
    /// The backend of its app that has it already.
    pub fn take(&mut self, backend: &Backend) -> Result<(), BackendId> {
        if backend.deleted {
            return Ok(());
        }
        match self.0.entry((backend.app.clone(), backend.addr())) {
            Entry::Occupied(first) => Err(first.get().clone()),
            Entry::Vacant(free) => {
                free.insert(backend.id.clone());
                Ok(())
            }
        }
    }
}

/// Parses every row, keeps the good ones in order, and names the others. Two backends of one app
/// on one address are one too many: the one with the higher id is left out, deleted ones aside.
#[must_use]
pub fn parse_rows(rows: Vec<RawRow>) -> (Vec<Backend>, Vec<SkippedRow>) {
    let mut good: Vec<Backend> = Vec::with_capacity(rows.len());
    let mut skipped = Vec::new();
    for (place, row) in rows.into_iter().enumerate() {
        let name = row.id.clone().unwrap_or_else(|| format!("(row {})", place + 1));
        match Backend::try_from(row) {
            Ok(backend) => good.push(backend),
            Err(bad) => skipped.push(SkippedRow { row: name, reason: bad.to_string() }),
        }
    }
    good.sort_by(|a, b| a.id.cmp(&b.id));
    let mut endpoints = Endpoints::default();
    good.retain(|backend| {
        let taken = endpoints.take(backend);
        if let Err(first) = &taken {
            let Backend { id, app, .. } = backend;
            let addr = backend.addr();
            let reason =
                format!("wg_ip and port = {addr}: already used by backend {first} of app {app}");
            skipped.push(SkippedRow { row: id.to_string(), reason });
        }
        taken.is_ok()
    });
    (good, skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> RawRow {
        RawRow {
            id: Some(id.into()),
            app: Some("web".into()),
            region: Some("SA".into()),
            country: Some("br".into()),
            wg_ip: Some("10.0.0.1".into()),
            port: Some(Number::Whole(80)),
            ..RawRow::default()
        }
    }

    #[test]
    fn a_row_gets_the_seeds_defaults_and_canonical_case() {
        let backend = Backend::try_from(row("a")).unwrap();
        assert_eq!((backend.weight, backend.soft_limit, backend.hard_limit), (1, 100, 150));
        assert_eq!(backend.region.as_str(), "sa");
        assert_eq!(backend.country.unwrap().to_string(), "BR");
        assert!(backend.healthy && !backend.deleted);
    }

    #[test]
    fn every_bad_column_is_named_with_what_was_given_and_what_is_accepted() {
        let reason = Backend::try_from(RawRow {
            port: Some(Number::Whole(70_000)),
            weight: Some(Number::Whole(-1)),
            wg_ip: Some("db.internal".into()),
            soft_limit: Some(Number::Other("many".into())),
            ..row("a")
        })
        .unwrap_err()
        .to_string();
        for part in [
            "port = 70000: must be a whole number from 1 to 65535",
            "weight = -1",
            "wg_ip = \"db.internal\": must be an IP address",
            "soft_limit = \"many\"",
        ] {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn a_duplicate_endpoint_within_one_app_leaves_the_higher_id_out() {
        let other_app = RawRow { app: Some("api".into()), ..row("c") };
        let (good, skipped) = parse_rows(vec![row("b"), row("a"), other_app]);
        let ids: Vec<_> = good.iter().map(|b| b.id.as_str()).collect();
        assert_eq!(ids, ["a", "c"]);
        assert_eq!(skipped[0].row, "b");
        assert!(skipped[0].reason.contains("10.0.0.1:80"), "{}", skipped[0]);
    }

    #[test]
    fn a_lease_ends_at_its_second_and_admin_state_drains() {
        let lease =
            |expires_at, admin_state| Some(Lease { generation: 1, expires_at, admin_state });
        let mut backend = Backend::try_from(row("a")).unwrap();
        backend.lease = lease(Some(100), AdminState::Ready);
        assert_eq!(backend.eligible(99), Ok(()));
        assert_eq!(backend.eligible(100), Err(Ineligible::LeaseExpired));
        backend.lease = lease(None, AdminState::Maint);
        assert_eq!(backend.eligible(0), Err(Ineligible::Draining));
    }
}
