//! A backend that falls ill and recovers, as a health checker sees it:
//! `cargo run --example health_checker`

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use edgeproxy::infrastructure::{HealthCheckConfig, HealthCheckType, HealthChecker};

/// What a backend answers, and how often it has.
struct Backend {
    status: AtomicU16,
    answers: AtomicU64,
}

/// Answers every request with the status that the backend has at the time.
fn respond(backend: Arc<Backend>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            assert_eq!(request, "GET /health HTTP/1.1");
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let status = backend.status.load(Ordering::SeqCst);
            // Before it is read: who reads it may look here next.
            backend.answers.fetch_add(1, Ordering::SeqCst);
            // A probe that was given up does not read its answer.
            let _ = write!(stream, "HTTP/1.1 {status} Text\r\nConnection: close\r\n\r\n");
        }
    });
    Ok(addr)
}

/// Waits until something is so, ten seconds at most.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok();
    assert!(in_time, "not in time: {what}");
    println!("{what}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let backend = Arc::new(Backend { status: AtomicU16::new(200), answers: AtomicU64::new(0) });
    let addr = respond(Arc::clone(&backend))?;
    let checker = HealthChecker::new(
        "backend-1".to_string(),
        addr.to_string(),
        HealthCheckConfig {
            check_type: HealthCheckType::Http { path: "/health".to_string(), expected_status: 200 },
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(1),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        },
    );
    assert!(checker.status().is_healthy, "what is not known yet counts as healthy");

    checker.start();
    let answers = || backend.answers.load(Ordering::SeqCst);
    until("checked several times", || answers() >= 3).await;
    assert!(checker.status().is_healthy);

    let before = answers();
    backend.status.store(503, Ordering::SeqCst);
    until("unhealthy", || !checker.status().is_healthy).await;
    assert!(answers() >= before + 3, "after three failures, not before");

    let before = answers();
    backend.status.store(200, Ordering::SeqCst);
    until("healthy again", || checker.status().is_healthy).await;
    assert!(answers() >= before + 2, "after two successes, not before");
    println!("OK");
    Ok(())
}
