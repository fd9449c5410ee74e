//! Backends whose open connections are to be closed after a while: those in maintenance, and those of
//! which an operator said so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::registry::RegistryState;
use crate::adapters::inbound::worker::Worker;
use crate::application::proxy::Snapshot;
use crate::domain::time::Time;
use crate::domain::{AdminState, BackendId};

/// When whose connections are to be closed.
pub(super) struct Closings {
    due: HashMap<BackendId, Closing>,
    workers: Arc<Vec<Worker>>,
}

struct Closing {
    /// `None` = they have been.
    at: Option<Time>,
    /// Whether an operator said when.
    asked: bool,
}

impl Closings {
    pub fn new(workers: Arc<Vec<Worker>>) -> Self {
        Self { due: HashMap::new(), workers }
    }

    /// Closes what is open at a backend after a while, if it still takes no connections then; `None` takes
    /// such a word back.
    pub fn close_after(&mut self, id: BackendId, wait: Option<Duration>, now: Time) {
        match wait {
            Some(wait) => drop(self.due.insert(id, Closing { at: Some(now + wait), asked: true })),
            None if self.due.get(&id).is_some_and(|closing| closing.asked) => {
                self.due.remove(&id);
            }
            None => {}
        }
    }

    /// Follows what is asked of backends: one that is in maintenance is closed after the drain
    /// `timeout`, and one that takes connections again is not.
    pub fn follow(&mut self, snapshot: &Snapshot, timeout: Duration, now: Time) {
        let rows = || snapshot.tables.values().flat_map(|table| &table.rows);
        let mut states: HashMap<&BackendId, AdminState> = HashMap::new();
        for row in rows() {
            let state = row.asked();
            if state != AdminState::Ready || self.due.contains_key(&row.backend.id) {
                states.insert(&row.backend.id, state);
            }
        }
        self.due.retain(|id, closing| match states.get(id) {
            Some(AdminState::Ready) => false,
            Some(AdminState::Drain) | None => closing.asked,
            Some(AdminState::Maint) => true,
        });
        for (id, _) in states.iter().filter(|(_, state)| **state == AdminState::Maint) {
            let closing = || Closing { at: Some(now + timeout), asked: false };
            self.due.entry((*id).clone()).or_insert_with(closing);
        }
    }

    /// When the next is due.
    pub fn next(&self) -> Option<Time> {
        self.due.values().filter_map(|closing| closing.at).min()
    }

    /// Closes what is due.
    pub fn close_due(&mut self, known: &RegistryState, now: Time) {
        for (id, closing) in &mut self.due {
            if closing.at.take_if(|at| *at <= now).is_none() {
                continue;
            }
            let own = known.known().into_iter().filter(|upstream| upstream.id == *id);
            for upstream in own.filter(|upstream| upstream.active() > 0) {
                let active = upstream.active();
                tracing::warn!(backend = %id, active, "closing what is still open at it");
                for worker in self.workers.iter() {
                    worker.close_all_of(upstream.number);
                }
            }
        }
    }
}
