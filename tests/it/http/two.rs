//! HTTP/2 of clients, as they and backends see it.

mod bodies;
mod client;
mod floods;
mod frames;
mod life;
mod translated;
