use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::*;
use crate::clock;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(40);
const CONFIG: PoolConfig = PoolConfig {
    max_connections_per_backend: 1,
    idle_timeout: LONG,
    max_lifetime: LONG,
    connect_timeout: LONG,
};

/// What a request asks a session for, besides its number.
const NUMBER: u8 = b'n';
const CLOSE_LATER: u8 = b'c';
const SPEAK_LATER: u8 = b's';

/// A backend that answers each byte with the number of the session, from 1.
struct Site {
    address: String,
    state: Arc<SiteState>,
    /// The numbers of sessions whose client has ended.
    ended: mpsc::UnboundedReceiver<u8>,
    _sessions: JoinSet<()>,
}

#[derive(Default)]
struct SiteState {
    open: AtomicUsize,
    most: AtomicUsize,
    /// It is later.
    later: Notify,
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(SiteState::default());
        let (tell, ended) = mpsc::unbounded_channel();
        let mut sessions = JoinSet::new();
        let shared = Arc::clone(&state);
        sessions.spawn(async move {
            let mut sessions = JoinSet::new();
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, tell) = (Arc::clone(&shared), tell.clone());
                state.most.fetch_max(state.open.fetch_add(1, SeqCst) + 1, SeqCst);
                sessions.spawn(async move {
                    session(stream, number, &state.later).await;
                    state.open.fetch_sub(1, SeqCst);
                    let _ = tell.send(number);
                });
            }
        });
        Self { address, state, ended, _sessions: sessions }
    }

    async fn acquire(&self, pool: &ConnectionPool) -> PooledConnection {
        pool.acquire("tokyo", &self.address).await.expect("a connection")
    }

    /// Idle and in use.
    fn counts(&self, pool: &ConnectionPool) -> (usize, usize) {
        (pool.idle("tokyo", &self.address), pool.in_use("tokyo", &self.address))
    }

    /// The number of the next session whose client has ended.
    async fn ended(&mut self) -> u8 {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ended.recv()).await;
        ended.expect("the pool closes it").expect("the site runs")
    }
}

async fn session(mut stream: TcpStream, number: u8, later: &Notify) {
    while let Ok(request) = stream.read_u8().await {
        if stream.write_u8(number).await.is_err() {
            return;
        }
        match request {
            CLOSE_LATER => return later.notified().await,
            SPEAK_LATER => {
                later.notified().await;
                stream.write_u8(0).await.unwrap();
            }
            _ => {}
        }
    }
}

async fn ask(connection: &mut PooledConnection, request: u8) -> u8 {
    connection.write_all(&[request]).await.unwrap();
    connection.read_u8().await.unwrap()
}

/// The same socket once more, to see what happens to it while it is idle.
fn witness(connection: &PooledConnection) -> TcpStream {
    let socket = connection.as_fd().try_clone_to_owned().unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

/// Polls a future once, which must not be ready.
async fn begin<T>(future: &mut (impl Future<Output = T> + Unpin)) {
    tokio::select! {
        biased;
        _ = future => panic!("it did not have to wait"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_dropped_connection_is_used_again() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let mut connection = site.acquire(&pool).await;
    assert_eq!(ask(&mut connection, NUMBER).await, 1);
    assert_eq!(site.counts(&pool), (0, 1));
    drop(connection);
    assert_eq!(site.counts(&pool), (1, 0));
    assert_eq!(ask(&mut site.acquire(&pool).await, NUMBER).await, 1);
}

#[tokio::test]
async fn backends_and_addresses_are_kept_apart() {
    let (site, other) = (Site::start().await, Site::start().await);
    let pool = ConnectionPool::new(CONFIG);
    let mut first = site.acquire(&pool).await;
    let mut namesake = pool.acquire("tokyo", &other.address).await.unwrap();
    let mut neighbour = pool.acquire("osaka", &site.address).await.unwrap();
    assert_eq!(ask(&mut first, NUMBER).await, 1);
    assert_eq!(ask(&mut namesake, NUMBER).await, 1);
    assert_eq!(ask(&mut neighbour, NUMBER).await, 2);
}

#[tokio::test]
async fn a_host_name_will_do() {
    let site = Site::start().await;
    let port = site.address.parse::<SocketAddr>().unwrap().port();
    let pool = ConnectionPool::new(CONFIG);
    let mut connection = pool.acquire("tokyo", &format!("localhost:{port}")).await.unwrap();
    assert_eq!(ask(&mut connection, NUMBER).await, 1);
}

#[tokio::test]
async fn fifty_users_at_once_never_have_more_connections_than_the_limit() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(PoolConfig { max_connections_per_backend: 4, ..CONFIG });
    let mut users = JoinSet::new();
    for _ in 0..50 {
        let (pool, address) = (pool.clone(), site.address.clone());
        users.spawn(async move {
            for _ in 0..4 {
                let mut connection = pool.acquire("tokyo", &address).await.unwrap();
                assert!(ask(&mut connection, NUMBER).await <= 4);
                assert!(pool.idle("tokyo", &address) + pool.in_use("tokyo", &address) <= 4);
            }
        });
    }
    users.join_all().await;
    assert_eq!(site.counts(&pool), (4, 0));
    assert_eq!(site.state.most.load(SeqCst), 4);
}

#[tokio::test]
async fn who_waits_gets_what_is_dropped_in_the_order_of_coming() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let held = site.acquire(&pool).await;
    let (mut first, mut second) = (Box::pin(site.acquire(&pool)), Box::pin(site.acquire(&pool)));
    begin(&mut first).await;
    begin(&mut second).await;
    drop(held);
    begin(&mut second).await;
    let mut connection = first.await;
    assert_eq!(ask(&mut connection, NUMBER).await, 1);
    begin(&mut second).await;
    connection.discard();
    assert_eq!(ask(&mut second.await, NUMBER).await, 2);
}

#[tokio::test]
async fn without_room_it_says_so_when_the_connect_timeout_is_over() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(PoolConfig { connect_timeout: SHORT, ..CONFIG });
    let _held = site.acquire(&pool).await;
    let before = clock::now();
    let error = pool.acquire("tokyo", &site.address).await.unwrap_err();
    assert!(clock::now().since(before) >= SHORT);
    assert_eq!(
        error.to_string(),
        format!("backend tokyo at {}: no room among 1 connections within 40ms", site.address)
    );
}

#[tokio::test]
async fn where_no_connections_are_allowed_there_is_no_wait() {
    let pool = ConnectionPool::new(PoolConfig { max_connections_per_backend: 0, ..CONFIG });
    let error = pool.acquire("tokyo", "127.0.0.1:1").await.unwrap_err();
    let failure = error.failure;
    assert!(matches!(failure, PoolFailure::Exhausted { limit: 0, waited: Duration::ZERO }));
}

#[tokio::test]
async fn who_stops_waiting_leaves_the_queue() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let held = site.acquire(&pool).await;
    let (mut gone, mut stays) = (Box::pin(site.acquire(&pool)), Box::pin(site.acquire(&pool)));
    begin(&mut gone).await;
    begin(&mut stays).await;
    drop(held);
    // Its turn had come, but it had not noticed.
    drop(gone);
    drop(stays.await);
    assert_eq!(site.counts(&pool), (1, 0));
}

#[tokio::test]
async fn who_stops_dialling_gives_its_place_back() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let mut dial = Box::pin(site.acquire(&pool));
    begin(&mut dial).await;
    assert_eq!(site.counts(&pool), (0, 1));
    drop(dial);
    assert_eq!(site.counts(&pool), (0, 0));
    site.acquire(&pool).await;
}

#[tokio::test]
async fn one_that_the_backend_closed_while_it_was_idle_is_not_handed_out() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let mut connection = site.acquire(&pool).await;
    ask(&mut connection, CLOSE_LATER).await;
    let witness = witness(&connection);
    drop(connection);
    site.state.later.notify_one();
    witness.readable().await.unwrap();
    assert_eq!(site.counts(&pool), (1, 0));
    assert_eq!(ask(&mut site.acquire(&pool).await, NUMBER).await, 2);
}

#[tokio::test]
async fn one_on_which_something_came_that_nobody_read_is_not_handed_out() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let mut connection = site.acquire(&pool).await;
    ask(&mut connection, SPEAK_LATER).await;
    let witness = witness(&connection);
    drop(connection);
    site.state.later.notify_one();
    witness.readable().await.unwrap();
    assert_eq!(ask(&mut site.acquire(&pool).await, NUMBER).await, 2);
}

#[tokio::test]
async fn bytes_that_wait_on_a_connection_that_was_never_used_are_a_greeting() {
    let site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    let mut connection = site.acquire(&pool).await;
    assert!(is_usable(&*connection, true));
    connection.write_all(&[NUMBER]).await.unwrap();
    connection.readable().await.unwrap();
    assert!(is_usable(&*connection, false) && !is_usable(&*connection, true));
    ask(&mut connection, CLOSE_LATER).await;
    connection.read_u8().await.unwrap();
    site.state.later.notify_one();
    connection.read_u8().await.unwrap_err();
    assert!(!is_usable(&*connection, false) && !is_usable(&*connection, true));
}

#[tokio::test]
async fn it_is_closed_at_the_idle_timeout_though_nobody_asks() {
    let mut site = Site::start().await;
    let pool = ConnectionPool::new(PoolConfig { idle_timeout: SHORT, ..CONFIG });
    let connection = site.acquire(&pool).await;
    let before = clock::now();
    drop(connection);
    assert_eq!(site.ended().await, 1);
    assert!(clock::now().since(before) >= SHORT);
    assert_eq!(site.counts(&pool), (0, 0));
    assert_eq!(pool.shared.backends(), 0, "a backend without connections is forgotten");
}

#[tokio::test]
async fn it_is_closed_at_the_end_of_its_lifetime_though_it_is_not_idle_for_long() {
    let mut site = Site::start().await;
    let pool = ConnectionPool::new(PoolConfig { max_lifetime: SHORT, ..CONFIG });
    let before = clock::now();
    drop(site.acquire(&pool).await);
    let number = site.ended().await;
    assert!(clock::now().since(before) >= SHORT * 4 / 5);
    assert_eq!((number, site.counts(&pool)), (1, (0, 0)));
}

#[tokio::test]
async fn one_that_is_in_use_outlives_its_lifetime_and_is_closed_when_it_is_given_back() {
    let mut site = Site::start().await;
    let pool = ConnectionPool::new(PoolConfig { max_lifetime: Duration::ZERO, ..CONFIG });
    let mut connection = site.acquire(&pool).await;
    assert_eq!(ask(&mut connection, NUMBER).await, 1);
    drop(connection);
    assert_eq!(site.counts(&pool), (0, 0));
    assert_eq!(site.ended().await, 1);
}

#[tokio::test]
async fn a_later_connection_that_ends_sooner_is_closed_in_time() {
    let mut site = Site::start().await;
    let config = PoolConfig { max_connections_per_backend: 2, max_lifetime: SHORT, ..CONFIG };
    let pool = ConnectionPool::new(config);
    let (first, second) = (site.acquire(&pool).await, site.acquire(&pool).await);
    drop(second);
    drop(first);
    let mut ended = [site.ended().await, site.ended().await];
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
}

#[tokio::test]
async fn a_refused_dial_is_an_error_and_its_place_is_free() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let pool = ConnectionPool::new(CONFIG);
    for _ in 0..3 {
        let error = pool.acquire("tokyo", &address).await.unwrap_err();
        let expected = format!("backend tokyo at {address}: cannot connect: Connection refused");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    assert_eq!(pool.in_use("tokyo", &address), 0);
    assert_eq!(pool.shared.backends(), 0);
}

#[tokio::test]
async fn a_dial_that_is_not_answered_ends_with_the_connect_timeout() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Once its queue is full the kernel leaves further dials unanswered.
    let fill = || std::net::TcpStream::connect_timeout(&address, SHORT).ok();
    let _fillers: Vec<_> = std::iter::from_fn(fill).collect();
    let pool = ConnectionPool::new(PoolConfig { connect_timeout: SHORT, ..CONFIG });
    let error = pool.acquire("tokyo", &address.to_string()).await.unwrap_err();
    assert!(matches!(error.failure, PoolFailure::Timeout { timeout: SHORT }), "{error}");
    assert_eq!(pool.in_use("tokyo", &address.to_string()), 0);
}

#[tokio::test]
async fn one_that_is_discarded_shut_down_or_taken_out_is_not_used_again() {
    let mut site = Site::start().await;
    let pool = ConnectionPool::new(CONFIG);
    site.acquire(&pool).await.discard();
    assert_eq!((site.ended().await, site.counts(&pool)), (1, (0, 0)));
    let mut connection = site.acquire(&pool).await;
    connection.shutdown().await.unwrap();
    drop(connection);
    assert_eq!((site.ended().await, site.counts(&pool)), (2, (0, 0)));
    let mut taken_out = site.acquire(&pool).await.into_inner();
    assert_eq!(site.counts(&pool), (0, 0));
    taken_out.write_all(&[NUMBER]).await.unwrap();
    assert_eq!(taken_out.read_u8().await.unwrap(), 3);
}

#[tokio::test]
async fn what_is_idle_ends_with_the_pool_and_what_is_in_use_with_its_user() {
    let mut site = Site::start().await;
    let pool = ConnectionPool::new(PoolConfig { max_connections_per_backend: 2, ..CONFIG });
    let (mut kept, idle) = (site.acquire(&pool).await, site.acquire(&pool).await);
    assert_eq!(ask(&mut kept, NUMBER).await, 1);
    drop(idle);
    drop(pool);
    assert_eq!(site.ended().await, 2);
    assert_eq!(ask(&mut kept, NUMBER).await, 1);
    drop(kept);
    assert_eq!(site.ended().await, 1);
}
