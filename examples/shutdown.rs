//! A server that ends as it should: at SIGTERM it stops accepting, and who is there may finish.
//! `cargo run --example shutdown`

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use edgeproxy::infrastructure::{ShutdownController, shutdown_signal};
use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than anything here takes, and shorter than the drain may.
const SOON: Duration = Duration::from_secs(10);

/// Sends back what comes, until a signal has come and every client has left.
async fn serve(listener: TcpListener) {
    let shutdown = ShutdownController::new();
    let mut connections = JoinSet::new();
    let mut signal = pin!(shutdown_signal());
    loop {
        tokio::select! {
            () = &mut signal => break,
            Ok((mut stream, _)) = listener.accept() => {
                let guard = shutdown.connection_guard();
                connections.spawn(async move {
                    let _guard = guard;
                    let (mut reader, mut writer) = stream.split();
                    // A client that goes away in the middle is not waited for.
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        }
    }
    drop(listener);
    println!("signal: no longer accepting");
    shutdown.wait_for_drain(Duration::from_secs(30)).await;
}

/// Says something and hears it back.
async fn ask(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"hello").await?;
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// Waits until nobody accepts there.
async fn closed(address: SocketAddr) {
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut server = JoinSet::new();
    server.spawn(serve(listener));

    let mut early = TcpStream::connect(address).await?;
    let mut late = TcpStream::connect(address).await?;
    ask(&mut early).await?;
    ask(&mut late).await?;

    kill_process(getpid(), Signal::TERM)?;
    timeout(SOON, closed(address)).await?;

    // Who was there is still served, and waited for.
    ask(&mut early).await?;
    drop(early);
    ask(&mut late).await?;
    assert!(server.try_join_next().is_none(), "a client is still there");
    drop(late);
    let ended = timeout(SOON, server.join_next()).await?;
    assert!(ended.is_some_and(|ended| ended.is_ok()), "the wait ends with the last client");

    // The wait for a client that stays ends as well.
    let shutdown = ShutdownController::new();
    let _stays = shutdown.connection_guard();
    timeout(SOON, shutdown.wait_for_drain(Duration::from_millis(100))).await?;
    println!("drained");
    println!("OK");
    Ok(())
}
