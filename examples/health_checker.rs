//! A backend that falls ill and recovers, as a health checker sees it:
//! `cargo run --example health_checker`

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use edgeproxy::infrastructure::{HealthCheckConfig, HealthCheckType, HealthChecker};

/// Answers every request with the status that `status` holds at the time.
fn respond(status: Arc<AtomicU16>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let status = status.load(Ordering::SeqCst);
            // A probe that was given up does not read its answer.
            let _ = write!(stream, "HTTP/1.1 {status} Text\r\nConnection: close\r\n\r\n");
        }
    });
    Ok(addr)
}

/// Waits until the checker says so, ten seconds at most.
async fn becomes(checker: &HealthChecker, healthy: bool) {
    let wait = async {
        loop {
            let status = checker.status();
            if status.is_decided && status.is_healthy == healthy {
                println!("healthy: {healthy}, after {} checks", status.checks);
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok();
    assert!(in_time, "should have become healthy = {healthy}: {:?}", checker.status());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let answer = Arc::new(AtomicU16::new(200));
    let addr = respond(Arc::clone(&answer))?;
    let cfg = HealthCheckConfig {
        check_type: HealthCheckType::Http { path: "/health".into(), expected_status: 200 },
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(1),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };
    let checker = HealthChecker::new("example".into(), addr.to_string(), cfg);
    assert!(checker.status().is_healthy, "what is not known yet counts as healthy");

    checker.start();
    becomes(&checker, true).await;

    answer.store(503, Ordering::SeqCst);
    becomes(&checker, false).await;
    let error = checker.status().last_error;
    assert_eq!(error.as_deref(), Some("status 503, expected 200"));

    answer.store(200, Ordering::SeqCst);
    becomes(&checker, true).await;
    println!("OK");
    Ok(())
}
