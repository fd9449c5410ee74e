//! A backend's columns on their way in and out: options, records, raw rows.

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::domain::Backend;
use crate::domain::backend::{Number, RawRow};

/// The options that `add` and `set` share. Taken as text: what a column accepts is said in one
/// place, where rows are parsed.
#[derive(Debug, Default, Args)]
pub struct Columns {
    /// Its address on the private network, with the port
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["wg_ip", "port"])]
    addr: Option<String>,
    /// The address without the port
    #[arg(long, value_name = "IP")]
    wg_ip: Option<String>,
    /// The port
    #[arg(long, allow_negative_numbers = true)]
    port: Option<String>,
    /// The country that it is in, two letters; empty = unknown
    #[arg(long, value_name = "CC")]
    country: Option<String>,
    /// Its share among the backends of its region; 0 = no new connections [new: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    weight: Option<String>,
    /// Open connections from which others are preferred; 0 = none [new: 100]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    soft_limit: Option<String>,
    /// Open connections that are never exceeded; 0 = none [new: 150]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    hard_limit: Option<String>,
}

impl Columns {
    /// Whether no option was given.
    pub(super) fn is_empty(&self) -> bool {
        let Self { addr, wg_ip, port, country, weight, soft_limit, hard_limit } = self;
        [addr, wg_ip, port, country, weight, soft_limit, hard_limit]
            .iter()
            .all(|option| option.is_none())
    }

    /// `row` with what was given in place of what it had.
    pub(super) fn overlay(self, row: RawRow) -> anyhow::Result<RawRow> {
        let (wg_ip, port) = match self.addr {
            None => (self.wg_ip, self.port),
            Some(addr) => split(&addr).map(|(ip, port)| (Some(ip), Some(port)))?,
        };
        let number = |given: Option<String>, had| given.map(number).or(had);
        Ok(RawRow {
            wg_ip: wg_ip.or(row.wg_ip),
            port: number(port, row.port),
            country: self.country.or(row.country),
            weight: number(self.weight, row.weight),
            soft_limit: number(self.soft_limit, row.soft_limit),
            hard_limit: number(self.hard_limit, row.hard_limit),
            ..row
        })
    }
}

/// `IP:PORT` or `[IP]:PORT` in two; whether each half is good is for the row's parser to say.
fn split(addr: &str) -> anyhow::Result<(String, String)> {
    let (ip, port) =
        addr.rsplit_once(':').with_context(|| format!("--addr = {addr:?}: must be IP:PORT"))?;
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    Ok((ip.into(), port.into()))
}

/// Text as a number column has it.
pub(super) fn number(text: String) -> Number {
    text.trim().parse().map_or(Number::Other(text), Number::Whole)
}

/// A truth as a number column has it.
pub(super) fn flag(truth: bool) -> Number {
    Number::Whole(truth.into())
}

/// A backend as a raw row, to be changed and parsed again.
pub(super) fn raw(backend: &Backend) -> RawRow {
    let whole = |value: u32| Some(Number::Whole(value.into()));
    RawRow {
        id: Some(backend.id.to_string()),
        app: Some(backend.app.to_string()),
        region: Some(backend.region.to_string()),
        country: backend.country.map(|country| country.to_string()),
        wg_ip: Some(backend.wg_ip.to_string()),
        port: whole(backend.port.into()),
        healthy: Some(flag(backend.healthy)),
        weight: whole(backend.weight),
        soft_limit: whole(backend.soft_limit),
        hard_limit: whole(backend.hard_limit),
        deleted: Some(flag(backend.deleted)),
        created_at: backend.created_at.clone(),
        updated_at: backend.updated_at.clone(),
        lease: backend.lease.clone(),
    }
}

/// A backend as it is exported: every column but the times, in the table's order.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) app: String,
    pub(super) region: String,
    pub(super) country: String,
    pub(super) wg_ip: String,
    pub(super) port: u16,
    pub(super) healthy: bool,
    pub(super) weight: u32,
    pub(super) soft_limit: u32,
    pub(super) hard_limit: u32,
    pub(super) deleted: bool,
}

impl From<&Backend> for Record {
    fn from(backend: &Backend) -> Self {
        Self {
            id: backend.id.to_string(),
            app: backend.app.to_string(),
            region: backend.region.to_string(),
            country: backend.country.map(|country| country.to_string()).unwrap_or_default(),
            wg_ip: backend.wg_ip.to_string(),
            port: backend.port,
            healthy: backend.healthy,
            weight: backend.weight,
            soft_limit: backend.soft_limit,
            hard_limit: backend.hard_limit,
            deleted: backend.deleted,
        }
    }
}
