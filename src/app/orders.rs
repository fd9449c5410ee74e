//! What operators ask of the control plane while it runs. Each order is obeyed between two other changes
//! to what is in force.

use std::time::Duration;

use tokio::sync::oneshot;

use super::control::Control;
use crate::clock;
use crate::domain::{AdminState, BackendId};

/// Orders that may wait.
pub(super) const WAITING: usize = 1_024;

/// An order, and whom to tell that it has been obeyed.
pub(super) enum Order {
    /// To read the registry. The answer comes once what it said is in force, and says whether it could be read.
    Look(oneshot::Sender<bool>),
    /// To read the configuration anew: what has changed, and what has not; else every error.
    Reload(oneshot::Sender<Result<Reloaded, Vec<String>>>),
    /// To ask something of a backend on this POP only.
    AskHere(BackendId, AdminState, oneshot::Sender<()>),
    /// To close what is open at a backend after a while; `None` = as is usual for what is asked of it.
    CloseAfter(BackendId, Option<Duration>),
    /// To go by the deny list as it is now.
    Deny(oneshot::Sender<()>),
}

/// What a reload came to.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    /// What is in force.
    pub changes: Vec<String>,
    /// What is not.
    pub waiting: Vec<String>,
}

impl Control {
    /// Obeys.
    pub(super) async fn obey(&mut self, order: Order) {
        // Whoever does not wait any more has still asked for it.
        match order {
            Order::Look(answer) => {
                let number = self.following.ask();
                self.follow.waiting.push((number, answer));
            }
            Order::Reload(answer) => {
                let reloaded = self.reload("asked for").await;
                self.reload_geo(false).await;
                self.following.look();
                let _ = answer.send(reloaded.ok_or_else(|| self.reload.state.last().errors));
            }
            Order::AskHere(id, state, answer) => {
                self.in_force.ask_here(id, state);
                let _ = answer.send(());
            }
            Order::CloseAfter(id, wait) => {
                self.in_force.closings.close_after(id, wait, clock::now());
                self.in_force.follow_closings();
            }
            Order::Deny(answer) => {
                self.in_force.take_denials();
                let _ = answer.send(());
            }
        }
    }
}
