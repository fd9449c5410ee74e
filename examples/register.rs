//! A backend that registers itself: it takes traffic at once, lives while its heartbeats come, and is
//! taken off when it ends.
//! `EDGEPROXY_API=127.0.0.1:8081 EDGEPROXY_API_REGISTER_TOKEN=... cargo run --example register -- gru-1 web sa 10.50.1.1 8080`

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use edgeproxy::infrastructure::shutdown_signal;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

type Failed = Box<dyn Error + Send + Sync>;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The control API of one POP; any that shares the registry will do.
pub struct Api {
    /// `host:port`.
    pub addr: String,
    /// `EDGEPROXY_API_REGISTER_TOKEN`, or the admin's.
    pub token: String,
}

impl Api {
    /// The status and the body of an answer.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Failed> {
        let stream = TcpStream::connect(&self.addr).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.addr)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(body.map(Value::to_string).unwrap_or_default()))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let bytes = answer.into_body().collect().await?.to_bytes();
            Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
        };
        tokio::select! {
            answer = timeout(PATIENCE, answer) => answer?,
            ended = connection => Err(ended.err().map_or_else(|| "no answer".into(), Into::into)),
        }
    }

    /// Registers; how often to send a heartbeat.
    async fn register(&self, backend: &Value) -> Result<Duration, Failed> {
        match self.ask(Method::POST, "/api/v1/register", Some(backend)).await? {
            (StatusCode::CREATED, told) => {
                Ok(Duration::from_secs(told["heartbeat_every_secs"].as_u64().unwrap_or(10)))
            }
            (status, told) => Err(format!("{status}: {}", told["reason"]).into()),
        }
    }
}

/// Is registered until `done`.
///
/// # Errors
/// When it cannot register, or not be taken off.
pub async fn serve(
    api: &Api,
    backend: &Value,
    done: impl Future<Output = ()>,
) -> Result<(), Failed> {
    let id = backend["id"].as_str().ok_or("a backend has an id")?;
    let mut every = api.register(backend).await?;
    println!("{id} takes traffic; a heartbeat every {every:?}");
    let mut done = pin!(done);
    loop {
        tokio::select! {
            () = &mut done => break,
            () = tokio::time::sleep(every) => {}
        }
        match api.ask(Method::POST, &format!("/api/v1/heartbeat/{id}"), None).await {
            Ok((StatusCode::OK, _)) => {}
            // It is not there any more, or its lease has ended: once more from the start.
            Ok((StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::GONE, _)) => {
                every = api.register(backend).await?;
            }
            Ok((status, told)) => eprintln!("heartbeat: {status} {}", told["reason"]),
            Err(error) => eprintln!("heartbeat: {error}; again in {every:?}"),
        }
    }
    let (status, _) = api.ask(Method::DELETE, &format!("/api/v1/backends/{id}"), None).await?;
    println!("{id} is off ({status})");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [id, app, region, ip, port] = arguments.as_slice() else {
        return Err("usage: register ID APP REGION IP PORT".into());
    };
    #[expect(clippy::disallowed_methods, reason = "edgeproxy's own rule, not its users'")]
    let variable = |name: &str| std::env::var(name).ok();
    let api = Api {
        addr: variable("EDGEPROXY_API").unwrap_or_else(|| "127.0.0.1:8081".into()),
        token: variable("EDGEPROXY_API_REGISTER_TOKEN").ok_or("no EDGEPROXY_API_REGISTER_TOKEN")?,
    };
    let port: u16 = port.parse()?;
    let backend = json!({ "id": id, "app": app, "region": region, "ip": ip, "port": port });
    serve(&api, &backend, shutdown_signal()).await
}
