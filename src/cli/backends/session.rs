//! What each command does with the registry.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use super::columns::Record;
use super::{Outcome, check, table, transfer};
use crate::clock;
use crate::domain::backend::{RawRow, parse_rows};
use crate::domain::ports::{BackendRepository, Registry};
use crate::domain::{AdminState, Backend, BackendId};

/// How alike two ids must be for one to be offered in place of the other (0 to 1).
const LIKENESS: f64 = 0.6;

/// One command's view of the store: what it held when the command began.
pub(super) struct Session<'a> {
    pub(super) repo: &'a dyn BackendRepository,
    pub(super) registry: Registry,
}

impl Session<'_> {
    pub(super) fn list(
        &self,
        json: bool,
        app: Option<&str>,
        all: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let now = i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX);
        let listed: Vec<&Backend> = self
            .registry
            .backends
            .iter()
            .filter(|b| (all || !b.deleted) && app.is_none_or(|app| b.app.as_str() == app))
            .collect();
        if json {
            table::write_json(&listed, now, out)?;
        } else {
            table::write(&listed, now, out)?;
        }
        self.name_skipped();
        Ok(Outcome::Done)
    }

    pub(super) async fn add(&self, row: RawRow, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let backend = parse(row)?;
        let existing = self.registry.backends.iter().find(|b| b.id == backend.id);
        if existing.is_some_and(|b| !b.deleted) {
            bail!("backend {0} exists; change it with `edge-proxy backends set {0}`", backend.id);
        }
        self.refuse_taken_endpoints(std::slice::from_ref(&backend))?;
        let line = format!("{} added: {} in {}", backend.id, backend.addr(), backend.region);
        self.repo.put(vec![backend]).await?;
        writeln!(out, "{line}")?;
        Ok(Outcome::Done)
    }

    /// Changes a row. One that is `made_ready` takes connections, whatever was asked of it before.
    pub(super) async fn set(
        &self,
        row: RawRow,
        made_ready: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let backend = parse(row)?;
        self.refuse_taken_endpoints(std::slice::from_ref(&backend))?;
        let id = backend.id.clone();
        let was_asked = backend.lease.as_ref().is_some_and(|l| l.admin_state != AdminState::Ready);
        self.repo.put(vec![backend]).await?;
        if made_ready && was_asked {
            self.repo.set_state(id.clone(), AdminState::Ready).await?;
        }
        writeln!(out, "{id} changed")?;
        Ok(Outcome::Done)
    }

    /// Asks something of a backend, at every POP.
    pub(super) async fn ask(
        &self,
        id: &str,
        state: AdminState,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let known = self.find(id)?.id.clone();
        self.repo.set_state(known, state).await?;
        writeln!(
            out,
            "{}",
            match state {
                AdminState::Ready => format!("{id} takes connections again"),
                AdminState::Drain => format!(
                    "{id} drains: no new connections; open ones go on\n\
                     undo with `edge-proxy backends ready {id}`"
                ),
                AdminState::Maint => format!(
                    "{id} is in maintenance: no new connections; open ones are closed after the drain \
                     timeout\nundo with `edge-proxy backends ready {id}`"
                ),
            }
        )?;
        Ok(Outcome::Done)
    }

    pub(super) async fn remove(&self, id: &str, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        // Not `find`: a row that does not parse can be removed as well.
        let removed = match id.parse::<BackendId>() {
            Ok(known) => self.repo.remove(known).await?,
            Err(_) => false,
        };
        if !removed {
            bail!(self.unknown(id));
        }
        writeln!(out, "{id} removed: no new connections; open ones go on")?;
        Ok(Outcome::Done)
    }

    pub(super) async fn check(
        &self,
        ids: &[String],
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let targets: Vec<&Backend> = if ids.is_empty() {
            self.registry.backends.iter().filter(|b| !b.deleted).collect()
        } else {
            ids.iter().map(|id| self.find(id)).collect::<Result<_, _>>()?
        };
        let answered = check::run(&targets, out).await?;
        self.name_skipped();
        Ok(if answered == 0 { Outcome::NoneAnswered } else { Outcome::Done })
    }

    pub(super) fn export(
        &self,
        file: Option<PathBuf>,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let records: Vec<Record> = self.registry.backends.iter().map(Record::from).collect();
        match file {
            None => transfer::write(&records, transfer::Format::Json, out)?,
            Some(path) => {
                let mut bytes = Vec::new();
                transfer::write(&records, transfer::Format::of(&path)?, &mut bytes)?;
                std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
                writeln!(out, "{} backends written to {}", records.len(), path.display())?;
            }
        }
        self.name_skipped();
        let whole = self.registry.skipped.is_empty();
        Ok(if whole { Outcome::Done } else { Outcome::Incomplete })
    }

    pub(super) async fn import(
        &self,
        rows: Vec<RawRow>,
        dry_run: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let (backends, skipped) = parse_rows(rows);
        let mut wrong: Vec<String> = skipped.iter().map(ToString::to_string).collect();
        // Sorted by id, so two of one id are neighbours.
        for pair in backends.windows(2).filter(|pair| pair[0].id == pair[1].id) {
            wrong.push(format!("backend {}: given twice", pair[0].id));
        }
        wrong.extend(self.taken_endpoints(&backends));
        if !wrong.is_empty() {
            bail!("nothing imported:\n  {}", wrong.join("\n  "));
        }
        let known = |b: &Backend| self.registry.backends.iter().any(|known| known.id == b.id);
        let replaced = backends.iter().filter(|b| known(b)).count();
        let added = backends.len() - replaced;
        if !dry_run {
            self.repo.put(backends).await?;
        }
        let suffix = if dry_run { " (dry run: nothing written)" } else { "" };
        writeln!(out, "{added} new, {replaced} replaced{suffix}")?;
        Ok(Outcome::Done)
    }

    /// The backend of that id that is not deleted.
    pub(super) fn find(&self, id: &str) -> anyhow::Result<&Backend> {
        let found = self.registry.backends.iter().find(|b| b.id.as_str() == id);
        match found {
            Some(backend) if backend.deleted => {
                bail!("backend {id} is deleted; `edge-proxy backends add {id}` makes it anew")
            }
            Some(backend) => Ok(backend),
            None => bail!(self.unknown(id)),
        }
    }

    fn unknown(&self, id: &str) -> String {
        if let Some(skipped) = self.registry.skipped.iter().find(|skipped| skipped.row == id) {
            return format!("{skipped}; `edge-proxy backends add {id}` writes the row anew");
        }
        let mut message = format!("no backend {id:?}");
        let alike = self.registry.backends.iter().filter(|b| !b.deleted).map(|b| b.id.as_str());
        let nearest = alike
            .map(|known| (strsim::jaro_winkler(known, id), known))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, known)) = nearest.filter(|(likeness, _)| *likeness >= LIKENESS) {
            let _ = write!(message, "; did you mean {known}?");
        }
        message
    }

    fn refuse_taken_endpoints(&self, backends: &[Backend]) -> anyhow::Result<()> {
        let taken = self.taken_endpoints(backends);
        ensure!(taken.is_empty(), taken.join("\n"));
        Ok(())
    }

    /// Those of `backends` whose address another backend of their app keeps. Written all the
    /// same, one of the two would be skipped at every reading.
    fn taken_endpoints(&self, backends: &[Backend]) -> Vec<String> {
        let ids: HashSet<_> = backends.iter().map(|b| &b.id).collect();
        let kept: HashMap<_, _> = self
            .registry
            .backends
            .iter()
            .filter(|b| !b.deleted && !ids.contains(&b.id))
            .map(|b| ((&b.app, b.addr()), &b.id))
            .collect();
        let taken = |b: &Backend| {
            let id = kept.get(&(&b.app, b.addr()))?;
            let addr = b.addr();
            Some(format!("backend {}: {addr} is already used by {id} of app {}", b.id, b.app))
        };
        backends.iter().filter(|b| !b.deleted).filter_map(taken).collect()
    }

    fn name_skipped(&self) {
        for skipped in &self.registry.skipped {
            eprintln!("skipped: {skipped}");
        }
    }
}

fn parse(row: RawRow) -> anyhow::Result<Backend> {
    let name = row.id.clone().unwrap_or_default();
    Backend::try_from(row).map_err(|reason| anyhow::anyhow!("backend {name}: {reason}"))
}
