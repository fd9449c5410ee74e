//! The clients in `examples/`, as they are.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use super::site;
use crate::support::api::registration;
use crate::support::{Backend, eventually};

#[expect(dead_code, reason = "its main reads the arguments of a program")]
#[path = "../../../examples/register.rs"]
mod example;

const APPS: &str = "for-apps-only";

#[test]
fn the_shell_script_registers_lives_and_deregisters_when_it_ends() {
    let a = Backend::named("a");
    let edge = site()
        .env("EDGEPROXY_API_REGISTER_TOKEN", APPS)
        .env("EDGEPROXY_HEARTBEAT_TTL_SECS", "2")
        .start();
    let addr = a.addr();
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/register.sh"))
        .args(["a", "web", "sa", &addr.ip().to_string(), &addr.port().to_string()])
        .env("EDGEPROXY_API", format!("http://{}", edge.api_addr()))
        .env("EDGEPROXY_API_REGISTER_TOKEN", APPS)
        .spawn()
        .expect("it starts");
    eventually("it takes traffic", || edge.served_by());
    let lease = || edge.api().backend("a")["lease"]["expires_at"].as_i64();
    let first = lease().expect("a lease");
    eventually("heartbeats come for longer than the lease", || {
        (lease()? > first + 3).then_some(())
    });
    assert_eq!(edge.served_by().as_deref(), Some("a"));
    kill_process(Pid::from_child(&script), Signal::TERM).expect("a signal");
    assert_eq!(script.wait().expect("it ends").code(), Some(0));
    assert!(edge.visit().is_err(), "it is off");
}

#[tokio::test]
async fn the_rust_client_registers_and_deregisters_when_it_is_done() {
    let a = Backend::named("a");
    let edge = site().env("EDGEPROXY_API_REGISTER_TOKEN", APPS).start();
    let api = example::Api { addr: edge.api_addr().to_string(), token: APPS.into() };
    let (done, is_done) = oneshot::channel();
    let backend = registration("a", a.addr());
    let serving = example::serve(&api, &backend, async { drop(is_done.await) });
    let watching = async {
        let edge = tokio::task::spawn_blocking(move || {
            eventually("it takes traffic", || edge.served_by());
            edge
        });
        let edge = edge.await.expect("it is seen");
        done.send(()).expect("it waits");
        edge
    };
    let (served, edge) = tokio::join!(serving, watching);
    served.expect("it is served");
    assert_eq!(edge.api().backend("a"), serde_json::Value::Null);
}
