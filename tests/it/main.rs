//! Whole-process tests: each starts the real binary, and looks at it from outside only: its
//! connections, its exit code, its log and what the system says of its process. Only `decision`
//! looks inside, where nothing can be seen from outside, and `repository` and `postgres` test a part
//! that other programs use as well.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans keep decisions in the product repeatable; a test measures real time"
)]

mod access_log;
mod api;
mod bad_input;
mod breaker;
mod command_line;
mod decision;
mod deploy;
mod failure;
mod health;
mod http;
mod limits;
mod listeners;
mod live;
mod metrics;
mod pool;
mod pops;
mod postgres;
mod production;
mod proxy_protocol;
mod rate_limit;
mod reload;
mod repository;
mod routing;
mod shutdown;
mod slow_start;
mod snapshot;
mod sni;
mod support;
mod tls;
mod tls_backends;
mod traffic;
