//! Dials backends that clients could not reach, so that no client has to find out.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::application::connect::secured_after;
use crate::application::proxy::Shared;
use crate::application::upstreams::{PROBE_TIME, Upstream};
use crate::clock;
use crate::domain::time::Time;
use crate::infrastructure::health_checker::own_header;
use crate::infrastructure::meters::DialFailure;

/// Dials made at once.
const CONCURRENT: usize = 64;
/// Least wait for a breaker whose trials are under way.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait before a breaker is looked at again: somebody may have held it open and let go.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Probes each demoted backend until it answers or leaves the table.
///
/// Their results count as those of clients' dials do, for the breakers too: an open one is not
/// dialled before its timeout, and then with a permit.
pub(super) async fn run(
    mut demoted: mpsc::Receiver<(Arc<Upstream>, Duration)>,
    shared: Arc<Shared>,
) {
    let probing = Arc::new(Probing { permits: Semaphore::new(CONCURRENT), shared });
    let mut probes = JoinSet::new();
    loop {
        tokio::select! {
            next = demoted.recv() => match next {
                Some((upstream, delay)) => {
                    let probing = Arc::clone(&probing);
                    probes.spawn(async move {
                        probing.until_it_answers(&upstream, delay).await;
                        upstream.dials().probe_ended();
                    });
                }
                None => return,
            },
            Some(_) = probes.join_next() => {}
        }
    }
}

struct Probing {
    permits: Semaphore,
    shared: Arc<Shared>,
}

impl Probing {
    /// Whether breakers are believed, as the configuration stands now.
    fn breakers(&self, upstream: &Upstream) -> bool {
        self.shared.snapshot.load().tables.get(&upstream.app).is_some_and(|table| table.breakers)
    }

    async fn until_it_answers(&self, upstream: &Upstream, mut delay: Duration) {
        loop {
            tokio::time::sleep(delay).await;
            let now = clock::now();
            if !upstream.is_seated() || !upstream.dials().demoted(now) {
                return;
            }
            let permit = if self.breakers(upstream) {
                let Some(permit) = upstream.permit(now, false) else {
                    delay = until_breaker_admits(upstream, now);
                    continue;
                };
                Some(permit)
            } else {
                None
            };
            let Ok(_place) = self.permits.acquire().await else { return };
            match self.dial(upstream).await {
                Ok(()) => {
                    // Whether it serves is for clients' connections to say.
                    drop(permit);
                    upstream.dials().succeeded();
                    upstream.rise();
                    tracing::info!(backend = %upstream.id, addr = %upstream.addr, "answers again");
                    return;
                }
                Err(failure) => {
                    let now = clock::now();
                    upstream.meter.cell(self.shared.meters.own_share()).dial_failed(failure);
                    if let Some(permit) = permit {
                        upstream.report(permit, false, now);
                    }
                    match upstream.dials().probe_failed(now) {
                        Some(next) => delay = next,
                        None => return,
                    }
                    // Once it is open, it alone says when to try again.
                    if self.breakers(upstream) && !upstream.breaker().admits(now) {
                        delay = until_breaker_admits(upstream, now);
                    }
                }
            }
        }
    }

    async fn dial(&self, upstream: &Upstream) -> Result<(), DialFailure> {
        let begun = clock::now();
        let Ok(opened) = timeout(PROBE_TIME, TcpStream::connect(upstream.addr)).await else {
            return Err(DialFailure::Timeout);
        };
        let stream = opened.map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => DialFailure::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => DialFailure::Unreachable,
            _ => DialFailure::Other,
        })?;
        let patience = secured_after(clock::now().since(begun));
        // Boxed, so that those who have no TLS do not carry its state.
        let secured = timeout(patience, Box::pin(self.secure(upstream, stream))).await;
        secured.unwrap_or(Err(DialFailure::Timeout))
    }

    /// Goes on as a client's dial does, up to the end of the handshake where there is TLS.
    async fn secure(&self, upstream: &Upstream, mut stream: TcpStream) -> Result<(), DialFailure> {
        let rules = self.shared.snapshot.load().tables.get(&upstream.app).map(|table| {
            let rules = &table.rules;
            (rules.header, rules.tls.clone())
        });
        let Some((header, Some(originator))) = rules else { return Ok(()) };
        if let Some(version) = header {
            // Should it not be taken, the handshake fails.
            let _ = stream.write_all(&own_header(&stream, version)).await;
        }
        let name = originator.name(upstream.addr.ip());
        match TlsConnector::from(originator.for_one()).connect(name, stream).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(backend = %upstream.id, "probed: TLS: {error}");
                Err(DialFailure::Tls)
            }
        }
    }
}

/// How long to wait for a breaker that lets nothing through, while the backend ranks last.
fn until_breaker_admits(upstream: &Upstream, now: Time) -> Duration {
    let wait = upstream.breaker().admits_after(now).clamp(SHORTEST_WAIT, LONGEST_WAIT);
    upstream.dials().stay_demoted(now, wait);
    wait
}
