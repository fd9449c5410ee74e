//! The `OpenAPI` document, made from the code that answers.

use axum::Json;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{read, write};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "edge-proxy control API",
        description = "What one POP is asked and told. Reads need no token from this machine, and the \
            admin token from elsewhere; writes always need it. The register token may only register, \
            heartbeat and deregister. On the unix socket in the state folder nothing is needed.",
    ),
    paths(
        read::health, read::readyz, read::status, read::live, read::backends, read::backend,
        read::route, read::choices, read::capacity, read::connections, read::limits, read::deny_list,
        read::config, write::register, write::heartbeat, write::remove, write::set_state,
        write::set_breaker, write::kill, write::kill_all, write::deny, write::undeny, write::reload, write::refresh,
    ),
    modifiers(&Tokens),
)]
struct Api;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        for (name, what) in [
            ("admin", "EDGEPROXY_API_TOKEN: may do everything."),
            ("register", "EDGEPROXY_API_REGISTER_TOKEN: may register, heartbeat and deregister."),
        ] {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
            let scheme = scheme.description(Some(what)).build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

/// The document.
#[must_use]
pub fn document() -> Document {
    Api::openapi()
}

pub(super) async fn serve() -> Json<Document> {
    Json(document())
}
