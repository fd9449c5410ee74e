//! The end of a connection, whatever its stage, and what is said of it.

use std::sync::Arc;

use super::{Connection, Proxy, Relaying, Stage};
use crate::application::account::{self, Asked, Reason, Record};
use crate::application::locate::Location;
use crate::application::relay::{End, Ending, Side};
use crate::application::upstreams::AppTable;
use crate::clock;
use crate::domain::time::Time;
use crate::infrastructure::slab::Key;

/// What there is to tell of the TLS of a client.
pub(super) fn tell_of_tls(record: &mut Record<'_>, client: &End) {
    if let Some(session) = client.tls() {
        record.tls = session.version();
        record.client_name = session.peer_name();
    }
}

impl Proxy {
    pub(super) fn over(&mut self, id: Key, connection: Box<Connection>, ending: Ending, now: Time) {
        let reason = match ending {
            Ending::Closed(Side::Client) => Reason::ClientClosed,
            Ending::Closed(Side::Backend) => Reason::BackendClosed,
            Ending::Reset(Side::Client) => Reason::ClientReset,
            Ending::Reset(Side::Backend) => Reason::BackendReset,
        };
        self.end(id, connection, reason, now);
    }

    /// The end of a connection, whatever its stage.
    pub(super) fn end(&mut self, id: Key, connection: Box<Connection>, reason: Reason, now: Time) {
        if matches!(connection.stage, Stage::Serving(_)) {
            return self.leave(id, connection, reason, now);
        }
        self.connections.free(id);
        let Connection { client, name, location, accepted, stage, admitted, .. } = *connection;
        let mut record = Record::new(client, reason);
        record.country = location.country;
        record.server_name = name;
        record.total = now.since(accepted);
        let snapshot = self.shared.snapshot.load();
        let table = match &stage {
            Stage::Dialing { dial, .. } => snapshot.tables.get(dial.app()),
            Stage::Relaying(relaying) => snapshot.tables.get(&relaying.slot.upstream().app),
            Stage::Serving(_) | Stage::Between => None,
        };
        match stage {
            Stage::Dialing { client: end, dial, .. } => {
                record.tries = u32::try_from(dial.tries()).unwrap_or(u32::MAX);
                record.backend = dial.last().cloned();
                tell_of_tls(&mut record, &end);
                end.reset();
            }
            Stage::Serving(_) | Stage::Between => {}
            Stage::Relaying(mut relaying) => {
                relaying.count(&self.shared.meters, self.share);
                relaying.has_ended(reason, self.share, now);
                let Relaying { mut relay, slot, hold, tier, tries, setup, .. } = relaying;
                relay.give_back(&mut self.tools);
                record.tries = tries;
                record.tier = Some(tier);
                record.setup = Some(setup);
                record.sent = relay.sent();
                record.received = relay.received();
                record.backend = Some(Arc::clone(slot.upstream()));
                tell_of_tls(&mut record, &relay.client);
                match reason {
                    Reason::ClientReset => relay.reset(Ending::Reset(Side::Client)),
                    Reason::BackendReset => relay.reset(Ending::Reset(Side::Backend)),
                    Reason::Drained | Reason::Killed | Reason::Internal => relay.reset_both(),
                    // Nothing has come for long: nothing is cut off.
                    Reason::Idle => relay.close(&mut self.tools),
                    _ => drop(relay),
                }
                if let Some((hold, ttl)) = hold {
                    self.shared.affinity.release(hold, ttl, now);
                }
                drop(slot);
            }
        }
        self.account(table.map(|table| &**table), location, &record, now);
        // Last, so that who waits for the last connection finds its line in the log's hands.
        drop(admitted);
    }

    pub(super) fn account(
        &mut self,
        table: Option<&AppTable>,
        location: Location,
        record: &Record<'_>,
        now: Time,
    ) {
        self.ended.count(record.reason);
        if !record.reason.is_admission() {
            self.line(table, location, record, now);
        }
    }

    /// Logs a connection or a request.
    pub(super) fn line(
        &mut self,
        table: Option<&AppTable>,
        location: Location,
        record: &Record<'_>,
        now: Time,
    ) {
        let shared = &self.shared;
        self.log.line(now, |out| {
            let region = table.and_then(|table| {
                table.layout.region_name(table.layout.origin(location.country, location.at_pop))
            });
            let asked = Asked { app: table.map(|table| &table.name), region };
            account::write_line(out, shared.format, clock::wall(), asked, record);
        });
    }
}
