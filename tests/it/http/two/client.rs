//! Clients of HTTP/2 by the library that others use, and what they are told.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;

use crate::support::{Edge, PATIENCE};

/// A connection.
pub type Asks = SendRequest<Bytes>;

/// Runs it to its end, which it must come to.
pub fn running<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

/// Waits until something has become true.
pub async fn until(what: &str, mut look: impl FnMut() -> bool) {
    crate::support::comes_true(what, async || look().then_some(())).await;
}

/// A connection with windows as they are by default.
pub async fn connect(edge: &Edge) -> Asks {
    connect_with(edge, |_| {}).await
}

/// A connection with other settings.
pub async fn connect_with(edge: &Edge, set: impl FnOnce(&mut h2::client::Builder)) -> Asks {
    let stream = TcpStream::connect(edge.addr).await.expect("it accepts");
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    set(&mut builder);
    let (asks, connection) = builder.handshake(stream).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    asks.ready().await.expect("it is open")
}

/// A request, yet without its body.
pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://web{path}")).body(()).unwrap()
}

/// Begins a request.
pub async fn ask(
    asks: &Asks,
    request: Request<()>,
    ends: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut asks = asks.clone().ready().await.expect("it is open");
    asks.send_request(request, ends).expect("a request")
}

/// An answer, all of it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Reads an answer to its end.
pub async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?;
    Ok(Answer { status: head.status.as_u16(), fields: head.headers, body: bytes, trailers })
}

/// Asks and reads the answer.
pub async fn fetch(asks: &Asks, request: Request<()>) -> Result<Answer, h2::Error> {
    let (answer, _) = ask(asks, request, true).await;
    read(answer.await?).await
}

/// `GET path`, where nothing must go wrong.
pub async fn get(asks: &Asks, path: &str) -> Answer {
    fetch(asks, request("GET", path)).await.unwrap_or_else(|error| panic!("{error}, {path}"))
}

/// Sends a piece of a body as soon as there is room for it.
pub async fn send(
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.ok_or(h2::Error::from(Reason::CANCEL))??;
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, ends && bytes.is_empty())?;
    }
    Ok(())
}

/// Asks with a body.
pub async fn post(asks: &Asks, path: &str, body: impl Into<Bytes>) -> Result<Answer, h2::Error> {
    let (answer, mut stream) = ask(asks, request("POST", path), false).await;
    let body = body.into();
    let sent = async { send(&mut stream, body, true).await };
    let (sent, answer) = tokio::join!(sent, async { read(answer.await?).await });
    sent.and(answer)
}
