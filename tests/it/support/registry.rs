//! Rows of a registry, as an operator writes them.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A backend's row. Unless told otherwise it is of app `web` in region `sa`, without limits.
#[derive(Clone)]
pub struct Row {
    pub id: String,
    pub app: String,
    pub region: String,
    pub country: String,
    pub addr: SocketAddr,
    pub weight: u32,
    pub soft_limit: u32,
    pub hard_limit: u32,
}

impl Row {
    pub fn new(id: &str, addr: SocketAddr) -> Self {
        Self {
            id: id.into(),
            app: "web".into(),
            region: "sa".into(),
            country: String::new(),
            addr,
            weight: 1,
            soft_limit: 0,
            hard_limit: 0,
        }
    }

    pub fn app(self, app: &str) -> Self {
        Self { app: app.into(), ..self }
    }

    pub fn place(self, region: &str, country: &str) -> Self {
        Self { region: region.into(), country: country.into(), ..self }
    }

    pub fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    pub fn soft_limit(self, soft_limit: u32) -> Self {
        Self { soft_limit, ..self }
    }

    pub fn hard_limit(self, hard_limit: u32) -> Self {
        Self { hard_limit, ..self }
    }

    pub fn json(&self) -> Value {
        json!({
            "id": self.id, "app": self.app, "region": self.region, "country": self.country,
            "wg_ip": self.addr.ip().to_string(), "port": self.addr.port(),
            "weight": self.weight, "soft_limit": self.soft_limit, "hard_limit": self.hard_limit,
        })
    }

    /// The statement by which any other program adds this row.
    pub fn insert(&self) -> String {
        format!(
            "INSERT INTO backends (id, app, region, country, wg_ip, port, weight, soft_limit, \
             hard_limit) VALUES ('{}', '{}', '{}', '{}', '{}', {}, {}, {}, {})",
            self.id,
            self.app,
            self.region,
            self.country,
            self.addr.ip(),
            self.addr.port(),
            self.weight,
            self.soft_limit,
            self.hard_limit
        )
    }
}
