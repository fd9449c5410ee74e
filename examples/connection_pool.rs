//! A program that uses the connection pool as a library:
//! `cargo run --example connection_pool`

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use edgeproxy::infrastructure::{ConnectionPool, PoolConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How many sessions the backend has had, has now, and has had at once.
#[derive(Default)]
struct Sessions {
    all: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

/// Answers each line with the number of the session, from 1.
async fn session(stream: TcpStream, sessions: Arc<Sessions>) -> std::io::Result<()> {
    let number = sessions.all.fetch_add(1, Ordering::SeqCst) + 1;
    let open = sessions.open.fetch_add(1, Ordering::SeqCst) + 1;
    sessions.most.fetch_max(open, Ordering::SeqCst);
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.write_all(format!("{number:03} {line}").as_bytes()).await?;
        line.clear();
    }
    sessions.open.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

/// Asks over a connection of the pool, and returns the number of the session that answered.
async fn ask(pool: &ConnectionPool, address: &str) -> Result<usize, Box<dyn Error + Send + Sync>> {
    let mut connection = pool.acquire("tokyo", address).await?;
    connection.write_all(b"hello\n").await?;
    let mut answer = [0; "000 hello\n".len()];
    connection.read_exact(&mut answer).await?;
    Ok(std::str::from_utf8(&answer[..3])?.parse()?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    const LIMIT: usize = 3;
    const USERS: usize = 30;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let sessions = Arc::new(Sessions::default());
    let mut backend = JoinSet::new();
    let counted = Arc::clone(&sessions);
    backend.spawn(async move {
        let mut running = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            running.spawn(session(stream, Arc::clone(&counted)));
        }
    });

    let pool = Arc::new(ConnectionPool::new(PoolConfig {
        max_connections_per_backend: LIMIT,
        idle_timeout: Duration::from_secs(60),
        max_lifetime: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(5),
    }));
    assert_eq!(ask(&pool, &address).await?, 1);
    assert_eq!(ask(&pool, &address).await?, 1, "the connection is used again");
    println!(
        "two requests, one after the other: {} connection",
        sessions.all.load(Ordering::SeqCst)
    );

    let mut users = JoinSet::new();
    for _ in 0..USERS {
        let (pool, address) = (Arc::clone(&pool), address.clone());
        users.spawn(async move { ask(&pool, &address).await });
    }
    while let Some(answered) = users.join_next().await {
        assert!(answered?? <= LIMIT);
    }
    assert!(sessions.most.load(Ordering::SeqCst) <= LIMIT, "the limit holds");
    assert!(sessions.open.load(Ordering::SeqCst) > 0, "some are kept for the next user");
    println!("{USERS} requests at once: {} connections", sessions.all.load(Ordering::SeqCst));
    println!("OK");
    Ok(())
}
