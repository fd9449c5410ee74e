//! What can be seen.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::access::Reader;
use super::extract::{Id, Params};
use super::failure::Failure;
use super::schema::{Address, Name, Range};
use super::wire::{
    Backend, Backends, Capacity, Choices, Connections, DenyList, Health, Limits, Problem, Settings,
    Status,
};
use super::{Site, live};
use crate::application::explain::Explanation;
use crate::application::proxy::Wanted;
use crate::domain::cidr::Cidr;
use crate::domain::{App, BackendId, Region};

const ADDRESS: &str = "an IP address";
const RANGE: &str = "an IP address or a range (CIDR)";
const NAME: &str = "a name of 1 to 128 visible characters without spaces, quotes or commas";

const SPAN: &str = "0 to 31536000 seconds";
const YEAR: u64 = 31_536_000;

/// Most connections in one answer, and how many there are unless more are asked for.
const MOST: usize = 1_000;
const USUAL: usize = 100;

/// Whether the process lives.
#[utoipa::path(get, path = "/health", tag = "process", responses(
    (status = 200, description = "It lives", body = Health),
), security(()))]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok".into(), reason: None })
}

/// Whether it is ready for connections; of an app, whether a backend of its can be chosen.
#[utoipa::path(get, path = "/readyz", tag = "process", params(
    ("app" = Option<Name>, Query, description = "An app"),
), responses(
    (status = 200, description = "It is ready", body = Health),
    (status = 422, description = "A parameter cannot be as it is", body = Problem),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 404, description = "There is no such app", body = Problem),
    (status = 503, description = "It is not", body = Health),
), security(()))]
pub(super) async fn readyz(
    State(site): State<Arc<Site>>,
    mut params: Params,
) -> Result<Response, Failure> {
    let app: Option<App> = params.one("app", NAME);
    params.end()?;
    Ok(match site.steering.not_ready(app.as_ref())? {
        None => Json(Health { status: "ready".into(), reason: None }).into_response(),
        Some(reason) => {
            let health = Health { status: "not_ready".into(), reason: Some(reason.into()) };
            (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
        }
    })
}

macro_rules! seen {
    ($(#[$doc:meta])* $name:ident: $path:literal $tag:literal ($($params:tt)*) -> $body:ty $(, also $status:literal)?;
     |$site:ident, $query:pat_param| $act:block) => {
        $(#[$doc])*
        #[utoipa::path(get, path = $path, tag = $tag, params($($params)*), responses(
            (status = 200, description = "As asked for", body = $body),
            $((status = $status, description = "There is no such thing", body = Problem),)?
            (status = 400, description = "It cannot be read", body = Problem),
            (status = 401, description = "A token is needed", body = Problem),
            (status = 403, description = "This token may not", body = Problem),
            (status = 422, description = "A parameter cannot be as it is", body = Problem),
            (status = 429, description = "Asked too often", body = Problem),
        ), security((), ("admin" = [])))]
        pub(super) async fn $name(
            _: Reader,
            State($site): State<Arc<Site>>,
            $query: Params,
        ) -> Result<Json<$body>, Failure> $act
    };
}

seen! {
    /// How this process stands.
    status: "/api/v1/status" "process" () -> Status;
    |site, params| {
        params.end()?;
        Ok(Json(site.steering.status()))
    }
}

seen! {
    /// Every backend: what the registry says, and what this POP observes.
    backends: "/api/v1/backends" "backends" (
        ("app" = Option<Name>, Query, description = "Only of this app"),
        ("region" = Option<Name>, Query, description = "Only in this region"),
        ("all" = Option<bool>, Query, description = "Deleted ones too"),
    ) -> Backends;
    |site, mut params| {
        let app: Option<App> = params.one("app", NAME);
        let region: Option<Region> = params.one("region", NAME);
        let all: bool = params.one("all", "true or false").unwrap_or(false);
        params.end()?;
        let mut backends = site.steering.backends();
        backends.retain(|backend| {
            app.as_ref().is_none_or(|app| backend.app == app.as_str())
                && region.as_ref().is_none_or(|region| backend.region == region.as_str())
                && (all || backend.state != super::wire::State::Deleted)
        });
        Ok(Json(Backends { backends }))
    }
}

/// One backend.
#[utoipa::path(get, path = "/api/v1/backends/{id}", tag = "backends", params(
    ("id" = String, Path, description = "Its name"),
), responses(
    (status = 200, description = "As asked for", body = Backend),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "There is no such backend, or not any more", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
), security((), ("admin" = [])))]
pub(super) async fn backend(
    _: Reader,
    State(site): State<Arc<Site>>,
    Id(id): Id,
) -> Result<Json<Backend>, Failure> {
    site.steering.backend(&id).map(Json).ok_or_else(|| no_backend(&id))
}

/// What is said of a backend that is not there.
pub(super) fn no_backend(id: &str) -> Failure {
    Failure::NotFound(format!("no backend {id:?} in the registry"))
}

seen! {
    /// Where a client would go now, and why not elsewhere.
    route: "/api/v1/route" "why" (
        ("client" = Address, Query, description = "The client's address", example = "203.0.113.7"),
        ("app" = Option<Name>, Query, description = "The app; needed when there are several"),
        ("without" = Option<Vec<Name>>, Query, description = "As if this backend, or this whole region, were gone"),
    ) -> Explanation, also 404;
    |site, mut params| {
        let client: Option<IpAddr> = params.needed("client", ADDRESS);
        let app: Option<App> = params.one("app", NAME);
        let without = params.all("without");
        params.end()?;
        let client = client.ok_or(Failure::Internal)?;
        Ok(Json(site.steering.route(client, app.as_ref(), &without)?))
    }
}

seen! {
    /// The last choices outside the best tier, and why: what `why` tells afterwards.
    choices: "/api/v1/choices" "why" (
        ("client" = Option<Range>, Query, description = "Only of such clients: an address or a range"),
        ("since_secs" = Option<u64>, Query, description = "Only of the last so many seconds", minimum = 0, maximum = 31_536_000),
        ("limit" = Option<u32>, Query, description = "How many at most; 100 if not given", minimum = 1, maximum = 1000),
    ) -> Choices;
    |site, mut params| {
        let client: Option<Cidr> = params.one("client", RANGE);
        let since: Option<u64> = params.one("since_secs", SPAN);
        if since.is_some_and(|since| since > YEAR) {
            params.refuse("since_secs", &format!("must be {SPAN}"));
        }
        let limit = limit(&mut params);
        params.end()?;
        Ok(Json(Choices { choices: site.steering.choices(client, since, limit) }))
    }
}

seen! {
    /// Which loss of a single backend or region would not fit.
    capacity: "/api/v1/capacity" "why" (
        ("app" = Option<Name>, Query, description = "Only of this app"),
    ) -> Capacity, also 404;
    |site, mut params| {
        let app: Option<App> = params.one("app", NAME);
        params.end()?;
        Ok(Json(Capacity { losses: site.steering.losses(app.as_ref())? }))
    }
}

seen! {
    /// Open connections, the oldest first.
    connections: "/api/v1/connections" "connections" (
        ("client" = Option<Range>, Query, description = "Only of such clients: an address or a range"),
        ("backend" = Option<Name>, Query, description = "Only those that a backend has"),
        ("app" = Option<Name>, Query, description = "Only those for an app"),
        ("limit" = Option<u32>, Query, description = "How many at most; 100 if not given", minimum = 1, maximum = 1000),
    ) -> Connections;
    |site, mut params| {
        let wanted = wanted(&mut params);
        let limit = limit(&mut params);
        params.end()?;
        Ok(Json(site.steering.connections(wanted, limit).await))
    }
}

seen! {
    /// The rate limit, and who was refused most in the last ten minutes.
    limits: "/api/v1/limits" "admission" () -> Limits;
    |site, params| {
        params.end()?;
        Ok(Json(site.steering.limits()))
    }
}

seen! {
    /// Who is denied.
    deny_list: "/api/v1/deny" "admission" () -> DenyList;
    |site, params| {
        params.end()?;
        Ok(Json(DenyList { entries: site.steering.denied() }))
    }
}

seen! {
    /// The effective configuration, secrets masked, and where each value comes from.
    config: "/api/v1/config" "configuration" () -> Settings;
    |site, params| {
        params.end()?;
        Ok(Json(site.steering.settings()))
    }
}

/// How things are. With `Accept: application/x-ndjson` as one line of JSON a second, for as long as the
/// client reads; else once, after the second that rates are of.
#[utoipa::path(get, path = "/api/v1/live", tag = "process", responses(
    (status = 200, description = "As asked for", content(
        (super::wire::Live = "application/json"), (super::wire::Live = "application/x-ndjson")
    )),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 422, description = "A parameter cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
), security((), ("admin" = [])))]
pub(super) async fn live(
    _: Reader,
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Failure> {
    params.end()?;
    let watching = Arc::clone(&site.steering).watch();
    let accepts = |value: &HeaderValue| {
        value.to_str().is_ok_and(|kinds| kinds.contains("application/x-ndjson"))
    };
    if headers.get_all(ACCEPT).iter().any(accepts) {
        return Ok(live::lines(watching));
    }
    Ok(Json(live::once(watching).await).into_response())
}

fn limit(params: &mut Params) -> usize {
    let limit: Option<usize> = params.one("limit", "1 to 1000");
    if limit.is_some_and(|limit| !(1..=MOST).contains(&limit)) {
        params.refuse("limit", "must be 1 to 1000");
    }
    limit.unwrap_or(USUAL).min(MOST)
}

/// Which connections are meant.
pub(super) fn wanted(params: &mut Params) -> Wanted {
    let client: Option<Cidr> = params.one("client", RANGE);
    let backend: Option<BackendId> = params.one("backend", NAME);
    let app: Option<App> = params.one("app", NAME);
    Wanted { number: None, client, backend, app }
}
