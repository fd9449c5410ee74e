//! How TLS ends in front of the control API. Its files are read again every minute: a renewed certificate
//! needs no restart.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use crate::adapters::inbound::api::Terminates;
use crate::config::Settings;
use crate::infrastructure::tls::{BadFile, Pair, Policy};

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(60);

/// What is in force.
#[derive(Clone)]
pub(super) struct ApiTls {
    settings: Arc<Settings>,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl ApiTls {
    /// Reads the files; `None` when the API speaks no TLS.
    pub fn begin(settings: &Settings) -> Result<Option<Self>, BadFile> {
        let read = read(settings).transpose()?;
        Ok(read.map(|config| Self {
            settings: Arc::new(settings.clone()),
            config: Arc::new(ArcSwap::new(config)),
        }))
    }

    /// How connections are secured now.
    pub fn terminates(&self) -> Terminates {
        let config = Arc::clone(&self.config);
        Arc::new(move || config.load_full())
    }

    /// Goes by what the files hold, for as long as it is polled. What is wrong leaves what was there.
    pub async fn follow(self) {
        let mut complaint = None;
        loop {
            tokio::time::sleep(EVERY).await;
            let settings = Arc::clone(&self.settings);
            let reading = tokio::task::spawn_blocking(move || read(&settings));
            match reading.await.ok().flatten() {
                Some(Ok(config)) => {
                    self.config.store(config);
                    complaint = None;
                }
                Some(Err(error)) if complaint.as_ref() != Some(&error.to_string()) => {
                    tracing::error!("the control API: {error}; what is in force stays");
                    complaint = Some(error.to_string());
                }
                Some(Err(_)) | None => {}
            }
        }
    }
}

fn read(settings: &Settings) -> Option<Result<Arc<ServerConfig>, BadFile>> {
    let (cert, key) = (settings.api_tls_cert.as_ref()?, settings.api_tls_key.as_ref()?);
    let read = || {
        let pair = Pair::read(cert, key, None)?;
        let policy = match &settings.api_tls_client_ca {
            Some(ca) => Policy::of_clients(ca, false, &[])?,
            None => Policy::open(&[]),
        };
        Ok(policy.server(&pair, &["http/1.1".into()]))
    };
    Some(read())
}
