//! Whether backends can be reached from this machine.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::align::align;
use crate::clock;
use crate::domain::Backend;

/// How long one backend may take to answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Dials in flight at once.
const MAX_DIALS: usize = 64;

/// Dials every backend, prints what came of it in the order given, and counts those that answered.
pub(super) async fn run(backends: &[&Backend], out: &mut dyn Write) -> anyhow::Result<usize> {
    let mut results: Vec<Option<Result<Duration, String>>> = vec![None; backends.len()];
    let mut dials = JoinSet::new();
    for (place, backend) in backends.iter().enumerate() {
        if dials.len() == MAX_DIALS
            && let Some(ended) = dials.join_next().await
        {
            let (place, result) = ended?;
            results[place] = Some(result);
        }
        let addr = backend.addr();
        dials.spawn(async move { (place, dial(addr).await) });
    }
    while let Some(ended) = dials.join_next().await {
        let (place, result) = ended?;
        results[place] = Some(result);
    }

    let results: Vec<_> = results.into_iter().flatten().collect();
    let lines: Vec<_> = backends
        .iter()
        .zip(&results)
        .map(|(backend, result)| {
            let said = match result {
                Ok(took) => format!("{:.1} ms", took.as_secs_f64() * 1_000.0),
                Err(reason) => reason.clone(),
            };
            vec![backend.id.to_string(), backend.addr().to_string(), said]
        })
        .collect();
    align(&lines, out)?;
    let answered = results.iter().filter(|result| result.is_ok()).count();
    writeln!(out, "{answered} of {} answered", results.len())?;
    Ok(answered)
}

async fn dial(addr: SocketAddr) -> Result<Duration, String> {
    let begun = clock::now();
    match timeout(DIAL_TIMEOUT, TcpStream::connect(addr)).await {
        Ok(Ok(_)) => Ok(clock::now().since(begun)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Err("refused".into()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err("timeout".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("timeout".into()),
    }
}
