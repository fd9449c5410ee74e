//! Http mode, as clients and backends see it.

mod drain;
mod headers;
mod hosts;
mod keeping;
mod limited;
mod own_answers;
mod peers;
mod programs;
mod requests;
mod retries;
mod secured;
mod streaming;
mod timeouts;
mod told;
mod upgrades;
