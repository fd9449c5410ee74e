//! What can be changed, by whom it may be.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Site;
use super::access::{Admin, Registrar};
use super::extract::{Body, Id, MaybeBody, Params};
use super::failure::Failure;
use super::read::wanted;
use super::schema::{Name, Range};
use super::wire::{
    Backend, Denied, Deny, Drain, Heartbeat, Killed, Problem, Refreshed, Register, Registered,
    Reloaded, Renewed, SetBreaker, SetState,
};
use crate::domain::cidr::Cidr;

/// Registers a backend, which takes traffic at once and lives while its heartbeats come.
#[utoipa::path(post, path = "/api/v1/register", tag = "registration", request_body = Register, responses(
    (status = 201, description = "It is registered", body = Registered),
    (status = 400, description = "It is not JSON", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 408, description = "The body did not come in time", body = Problem),
    (status = 409, description = "It did not register itself, and this is the register token; another backend has the address; or the registry is a file", body = Problem),
    (status = 413, description = "The body is too long", body = Problem),
    (status = 415, description = "It is not said to be JSON", body = Problem),
    (status = 422, description = "A field cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "The registry cannot be written", body = Problem),
), security(("admin" = []), ("register" = [])))]
pub(super) async fn register(
    Registrar(who): Registrar,
    State(site): State<Arc<Site>>,
    Body(asked): Body<Register>,
) -> Result<(StatusCode, Json<Registered>), Failure> {
    let registered = site.steering.register(&who, asked).await?;
    Ok((StatusCode::CREATED, Json(registered)))
}

/// Renews the lease of a backend that has registered itself.
#[utoipa::path(post, path = "/api/v1/heartbeat/{id}", tag = "registration", params(
    ("id" = String, Path, description = "The backend"),
), request_body(content = Option<Heartbeat>, description = "May be left out"), responses(
    (status = 200, description = "It lives on", body = Renewed),
    (status = 400, description = "It is not JSON", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "There is no such backend, or not any more: register again", body = Problem),
    (status = 408, description = "The body did not come in time", body = Problem),
    (status = 409, description = "It is of another registration, or it never registered itself", body = Problem),
    (status = 410, description = "Its lease has ended: register again", body = Problem),
    (status = 413, description = "The body is too long", body = Problem),
    (status = 415, description = "It is not said to be JSON", body = Problem),
    (status = 422, description = "A field cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "There are too many", body = Problem),
), security(("admin" = []), ("register" = [])))]
pub(super) async fn heartbeat(
    _: Registrar,
    State(site): State<Arc<Site>>,
    Id(id): Id,
    MaybeBody(beat): MaybeBody<Option<Heartbeat>>,
) -> Result<Json<Renewed>, Failure> {
    let generation = beat.and_then(|beat| beat.generation);
    site.steering.heartbeat(&id, generation).await.map(Json)
}

/// Drains a backend and forgets it: it gets no new connections, open ones go on.
#[utoipa::path(delete, path = "/api/v1/backends/{id}", tag = "registration", params(
    ("id" = String, Path, description = "The backend"),
), responses(
    (status = 200, description = "It gets no new connections; how many are still open here", body = Drain),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "There is no such backend, or not any more", body = Problem),
    (status = 409, description = "It did not register itself, and this is the register token; or the registry is a file", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "The registry cannot be written", body = Problem),
), security(("admin" = []), ("register" = [])))]
pub(super) async fn remove(
    Registrar(who): Registrar,
    State(site): State<Arc<Site>>,
    Id(id): Id,
) -> Result<Json<Drain>, Failure> {
    site.steering.remove(&who, &id).await.map(Json)
}

/// Says whether a backend takes connections, on all POPs or on this one.
#[utoipa::path(put, path = "/api/v1/backends/{id}/state", tag = "backends", params(
    ("id" = String, Path, description = "The backend"),
), request_body = SetState, responses(
    (status = 200, description = "It is so; how many connections are open here", body = Drain),
    (status = 400, description = "It is not JSON", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "There is no such backend", body = Problem),
    (status = 408, description = "The body did not come in time", body = Problem),
    (status = 409, description = "The registry is a file", body = Problem),
    (status = 413, description = "The body is too long", body = Problem),
    (status = 415, description = "It is not said to be JSON", body = Problem),
    (status = 422, description = "A field cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "The registry cannot be written", body = Problem),
), security(("admin" = [])))]
pub(super) async fn set_state(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
    Id(id): Id,
    Body(asked): Body<SetState>,
) -> Result<Json<Drain>, Failure> {
    site.steering.set_state(&who, &id, asked).await.map(Json)
}

/// Holds a backend's circuit breaker on this POP, or lets it work by itself again.
#[utoipa::path(put, path = "/api/v1/backends/{id}/breaker", tag = "backends", params(
    ("id" = String, Path, description = "The backend"),
), request_body = SetBreaker, responses(
    (status = 200, description = "It is so", body = Backend),
    (status = 400, description = "It is not JSON", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "There is no such backend", body = Problem),
    (status = 408, description = "The body did not come in time", body = Problem),
    (status = 409, description = "Circuit breakers are off, or the backend takes no connections anyway", body = Problem),
    (status = 413, description = "The body is too long", body = Problem),
    (status = 415, description = "It is not said to be JSON", body = Problem),
    (status = 422, description = "A field cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
), security(("admin" = [])))]
pub(super) async fn set_breaker(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
    Id(id): Id,
    Body(asked): Body<SetBreaker>,
) -> Result<Json<Backend>, Failure> {
    site.steering.set_breaker(&who, &id, asked).map(Json)
}

/// Closes one connection.
#[utoipa::path(delete, path = "/api/v1/connections/{id}", tag = "connections", params(
    ("id" = String, Path, description = "The connection"),
), responses(
    (status = 200, description = "How many were closed", body = Killed),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "It is not open", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
), security(("admin" = [])))]
pub(super) async fn kill(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
    Id(id): Id,
) -> Result<Json<Killed>, Failure> {
    site.steering.kill(&who, &id).await.map(Json)
}

/// Closes the connections of whom all that is given is true; something must be given.
#[utoipa::path(delete, path = "/api/v1/connections", tag = "connections", params(
    ("client" = Option<Range>, Query, description = "Those of such clients: an address or a range"),
    ("backend" = Option<Name>, Query, description = "Those that a backend has"),
    ("app" = Option<Name>, Query, description = "Those for an app"),
), responses(
    (status = 200, description = "How many were closed", body = Killed),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 422, description = "A parameter cannot be as it is, or none is given", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
), security(("admin" = [])))]
pub(super) async fn kill_all(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
    mut params: Params,
) -> Result<Json<Killed>, Failure> {
    let wanted = wanted(&mut params);
    params.end()?;
    if wanted.client.is_none() && wanted.backend.is_none() && wanted.app.is_none() {
        let reason = "one of client, backend and app must be given";
        return Err(Failure::field("client", reason));
    }
    Ok(Json(site.steering.kill_all(&who, wanted).await))
}

/// Denies clients on this POP, for a while or until they are taken off the list.
#[utoipa::path(post, path = "/api/v1/deny", tag = "admission", request_body = Deny, responses(
    (status = 201, description = "They are denied", body = Denied),
    (status = 400, description = "It is not JSON", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 408, description = "The body did not come in time", body = Problem),
    (status = 409, description = "The list is full", body = Problem),
    (status = 413, description = "The body is too long", body = Problem),
    (status = 415, description = "It is not said to be JSON", body = Problem),
    (status = 422, description = "A field cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "It was not done in time; it may be yet", body = Problem),
), security(("admin" = [])))]
pub(super) async fn deny(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
    Body(asked): Body<Deny>,
) -> Result<(StatusCode, Json<Denied>), Failure> {
    let denied = site.steering.deny(&who, asked).await?;
    Ok((StatusCode::CREATED, Json(denied)))
}

/// Takes an entry off the deny list.
#[utoipa::path(delete, path = "/api/v1/deny", tag = "admission", params(
    ("cidr" = Range, Query, description = "The entry"),
), responses(
    (status = 204, description = "It is off the list"),
    (status = 400, description = "It cannot be read", body = Problem),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 404, description = "There is no such entry", body = Problem),
    (status = 409, description = "The configuration says so", body = Problem),
    (status = 422, description = "A parameter cannot be as it is", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "It was not done in time; it may be yet", body = Problem),
), security(("admin" = [])))]
pub(super) async fn undeny(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
    mut params: Params,
) -> Result<StatusCode, Failure> {
    let cidr: Option<Cidr> = params.needed("cidr", "an IP address or a range (CIDR)");
    params.end()?;
    site.steering.undeny(&who, cidr.ok_or(Failure::Internal)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the configuration anew; when anything is wrong, the one in force stays.
#[utoipa::path(post, path = "/api/v1/config/reload", tag = "configuration", responses(
    (status = 200, description = "What has changed", body = Reloaded),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 422, description = "Something is wrong with it", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "It was not read in time", body = Problem),
), security(("admin" = [])))]
pub(super) async fn reload(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
) -> Result<Json<Reloaded>, Failure> {
    site.steering.reload(&who).await.map(Json)
}

/// Has what the registry says now put in force at once; it is looked at again and again anyway.
#[utoipa::path(post, path = "/api/v1/registry/refresh", tag = "configuration", responses(
    (status = 200, description = "It is in force, unless it would take away most backends at once", body = Refreshed),
    (status = 401, description = "A token is needed", body = Problem),
    (status = 403, description = "This token may not", body = Problem),
    (status = 429, description = "Asked too often", body = Problem),
    (status = 503, description = "The registry could not be read in time", body = Problem),
), security(("admin" = [])))]
pub(super) async fn refresh(
    Admin(who): Admin,
    State(site): State<Arc<Site>>,
) -> Result<Json<Refreshed>, Failure> {
    site.steering.refresh(&who).await.map(Json)
}
