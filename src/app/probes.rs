//! Dials backends that clients could not reach, so that no client has to find out.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::application::upstreams::{PROBE_TIME, Upstream};
use crate::clock;

/// Dials made at once.
const CONCURRENT: usize = 64;

/// Probes each demoted backend until it answers or leaves the table.
pub(super) async fn run(mut demoted: mpsc::Receiver<(Arc<Upstream>, Duration)>) {
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    let mut probes = JoinSet::new();
    loop {
        tokio::select! {
            next = demoted.recv() => match next {
                Some((upstream, delay)) => {
                    probes.spawn(probe(upstream, delay, Arc::clone(&permits)));
                }
                None => return,
            },
            Some(_) = probes.join_next() => {}
        }
    }
}

async fn probe(upstream: Arc<Upstream>, delay: Duration, permits: Arc<Semaphore>) {
    probe_until_it_answers(&upstream, delay, &permits).await;
    upstream.dials().probe_ended();
}

async fn probe_until_it_answers(upstream: &Upstream, mut delay: Duration, permits: &Semaphore) {
    loop {
        tokio::time::sleep(delay).await;
        if !upstream.is_seated() || !upstream.dials().demoted(clock::now()) {
            return;
        }
        let Ok(_permit) = permits.acquire().await else { return };
        let dial = tokio::time::timeout(PROBE_TIME, TcpStream::connect(upstream.addr)).await;
        if matches!(dial, Ok(Ok(_))) {
            upstream.dials().succeeded();
            tracing::info!(backend = %upstream.id, addr = %upstream.addr, "answers again");
            return;
        }
        match upstream.dials().probe_failed(clock::now()) {
            Some(next) => delay = next,
            None => return,
        }
    }
}
