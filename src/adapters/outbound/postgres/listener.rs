//! Hears of changes on a connection of its own. What it hears is a hint: who misses one finds the
//! change at the next reading.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};

use super::database::{Database, READ};
use super::failed::Failed;
use super::schema::CHANNEL;
use super::tls::TlsStream;
use crate::infrastructure::backoff::Backoff;

/// A connection that is silent is asked this often whether it lives.
const PING: Duration = Duration::from_secs(30);
/// How long the first notification may take, which we send to ourselves.
const ECHO: Duration = Duration::from_secs(5);
/// Where notifications do not work they are tried again this often.
const RETRY: Duration = Duration::from_secs(600);

/// What a listener needs, and where it tells what it hears.
pub(super) struct Listener<'a> {
    pub database: &'a Database,
    pub hints: &'a watch::Sender<u64>,
    pub connect_timeout: Duration,
    pub query_timeout: Duration,
    pub reload_interval: Duration,
}

/// Why listening ended.
enum End {
    /// The connection could not be made, or was lost.
    Lost(String),
    /// This server, or what stands before it, passes no notifications on.
    Deaf(String),
}

impl Listener<'_> {
    /// Listens for ever, again and again.
    pub(super) async fn run(&self) {
        let name = &self.database.dialer().address.shown;
        let mut backoff = Backoff::new(self.reload_interval);
        let mut complaint = None;
        loop {
            let (complained, pause) = match self.listen(&mut backoff, &mut complaint).await {
                End::Lost(reason) => (format!("lost ({reason})"), backoff.next()),
                End::Deaf(reason) => (format!("not to be had ({reason})"), RETRY),
            };
            if complaint.as_ref() != Some(&complained) {
                tracing::info!(
                    "{name}: notifications are {complained}; changes are seen within {:?}",
                    self.reload_interval
                );
                complaint = Some(complained);
            }
            sleep(pause).await;
        }
    }

    async fn listen(&self, backoff: &mut Backoff, complaint: &mut Option<String>) -> End {
        let dialled = timeout(self.connect_timeout, self.database.dialer().dial()).await;
        let (client, connection) = match dialled {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(error)) => return End::Lost(Failed::from(error).reason),
            Err(_) => return End::Lost(format!("no answer within {:?}", self.connect_timeout)),
        };
        let echo = Echo {
            channel: format!("edgeproxy_echo_{:x}", fastrand::u64(..)),
            heard: Notify::new(),
        };
        let attend = async {
            if let Err(end) = self.begin(&client, &echo).await {
                return end;
            }
            backoff.reset();
            if complaint.take().is_some() {
                let name = &self.database.dialer().address.shown;
                tracing::info!("{name}: notifications are back");
            }
            loop {
                sleep(PING).await;
                if let Err(failed) = self.say(&client, "SELECT 1").await {
                    return End::Lost(failed.reason);
                }
            }
        };
        tokio::select! {
            reason = self.hear(connection, &echo) => End::Lost(reason),
            end = attend => end,
        }
    }

    /// Subscribes, and makes sure that notifications come.
    async fn begin(&self, client: &Client, echo: &Echo) -> Result<(), End> {
        // What the server refuses it will refuse again.
        let refused = |failed: Failed| {
            let is_for_good = failed.code.is_some() && !failed.fatal;
            if is_for_good { End::Deaf(failed.reason) } else { End::Lost(failed.reason) }
        };
        let Echo { channel, heard } = echo;
        self.say(client, &format!("LISTEN {CHANNEL}")).await.map_err(refused)?;
        self.say(client, &format!("LISTEN {channel}")).await.map_err(refused)?;
        // Something may have changed before this connection listened.
        self.hint();
        // From another connection: a pooler in transaction mode gives each transaction the server
        // connection that is free, and only by chance the one that listens.
        let notify = format!("SELECT pg_notify('{channel}', '')");
        let transaction = self.database.begin(READ).await.map_err(refused)?;
        let sent = async {
            let sent = transaction.run(&notify).await;
            transaction.end(sent).await
        };
        self.database.answer(sent).await.map_err(refused)?;
        if timeout(ECHO, heard.notified()).await.is_err() {
            let _ = self.say(client, "UNLISTEN *").await;
            let reason = "none comes through; a pooler in transaction mode passes none on";
            return Err(End::Deaf(reason.into()));
        }
        self.say(client, &format!("UNLISTEN {channel}")).await.map_err(refused)
    }

    async fn say(&self, client: &Client, sql: &str) -> Result<(), Failed> {
        let said = timeout(self.query_timeout, client.batch_execute(sql)).await;
        let late = |_| Failed::late(format!("no answer within {:?}", self.query_timeout));
        Ok(said.map_err(late)??)
    }

    /// Drives the connection, and passes on what comes; returns why it ended.
    async fn hear(&self, mut connection: Connection<Socket, TlsStream>, echo: &Echo) -> String {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(heard))) if heard.channel() == CHANNEL => {
                    self.hint();
                }
                Some(Ok(AsyncMessage::Notification(heard))) if heard.channel() == echo.channel => {
                    echo.heard.notify_one();
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Failed::from(error).reason,
                None => return "the connection was closed".into(),
            }
        }
    }

    fn hint(&self) {
        self.hints.send_modify(|hints| *hints += 1);
    }
}

/// A notification that we send to ourselves.
struct Echo {
    channel: String,
    heard: Notify,
}
