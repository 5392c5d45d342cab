//! The doors over HTTP: they parse, admit, and tell; no decisions are made here.

mod adapters;
mod admin;
mod auth;
mod cells;
mod chat;
mod confidence;
mod decisions;
mod embeddings;
mod error;
mod extract;
mod health;
mod infer;
mod learned;
mod memories;
mod models;
mod openapi;
mod options;
mod sources;
mod sse;
#[cfg(test)]
mod tests;
mod training;
mod verdicts;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpServer, Route, guard, web};
use chrono::Utc;
use nyx_actors::Nyx;

use auth::{Access, Keys};
use error::ApiError;

pub use infer::InferResponse;
pub(crate) use memories::MemoryRequest;
pub use options::{HttpOptions, HttpOptionsError};

/// What the doors know besides Nyx.
#[derive(Debug)]
pub struct DoorState {
    keys: Keys,
    pub max_body_bytes: usize,
    pub body_timeout: Duration,
    /// In seconds since 1970.
    pub started_at: i64,
}

impl DoorState {
    fn new(options: &HttpOptions) -> Self {
        Self {
            keys: Keys::new(options),
            max_body_bytes: options.max_body_bytes,
            body_timeout: Duration::from_secs(options.client_timeout_s),
            started_at: Utc::now().timestamp(),
        }
    }

    /// In seconds since 1970.
    pub fn now(&self) -> i64 {
        Utc::now().timestamp()
    }

    #[cfg(test)]
    fn for_tests(max_body_bytes: usize) -> Self {
        Self { max_body_bytes, ..Self::new(&HttpOptions::default()) }
    }
}

/// One way in.
struct Door {
    path: &'static str,
    method: Method,
    access: Access,
    route: Route,
}

fn door(access: Access, method: Method, path: &'static str, route: Route) -> Door {
    Door { path, method, access, route }
}

/// All of them. Doors of one path have one kind of access.
fn doors() -> Vec<Door> {
    let (get, post) = (|| Method::GET, || Method::POST);
    let to = web::route;
    vec![
        door(Access::Caller, post(), "/infer", to().to(infer::infer)),
        door(Access::Caller, post(), "/v1/chat/completions", to().to(chat::complete)),
        door(Access::Caller, get(), "/v1/models", to().to(models::list)),
        door(Access::Caller, get(), "/v1/models/{id:.+}", to().to(models::get)),
        door(Access::Caller, post(), "/v1/embeddings", to().to(embeddings::embed)),
        door(Access::Caller, post(), "/v1/memories", to().to(memories::remember)),
        door(Access::Caller, Method::DELETE, "/v1/memories", to().to(memories::forget)),
        door(Access::Caller, get(), "/v1/memories/search", to().to(memories::search)),
        door(Access::Caller, Method::DELETE, "/v1/memories/{id}", to().to(memories::forget_one)),
        door(Access::Caller, get(), "/v1/decisions", to().to(decisions::list)),
        door(Access::Caller, get(), "/v1/decisions/{id}", to().to(decisions::get)),
        door(Access::Caller, post(), "/v1/outcomes", to().to(verdicts::resolve)),
        door(Access::Caller, get(), "/v1/outcomes", to().to(verdicts::promises)),
        door(Access::Caller, post(), "/v1/feedback", to().to(verdicts::feedback)),
        door(Access::Caller, get(), "/v1/sources", to().to(sources::list)),
        door(Access::Caller, get(), "/v1/cells", to().to(cells::cells)),
        door(Access::Admin, get(), "/admin/actors", to().to(admin::actors)),
        door(Access::Admin, get(), "/admin/actors/{name}", to().to(admin::actor)),
        door(Access::Admin, post(), "/admin/actors/{name}/restart", to().to(admin::restart)),
        door(Access::Admin, get(), "/admin/traits", to().to(admin::traits)),
        door(Access::Admin, get(), "/admin/traits/{name}", to().to(admin::trait_history)),
        door(Access::Admin, post(), "/admin/traits/{name}", to().to(admin::set_trait)),
        door(Access::Admin, get(), "/admin/training", to().to(training::runs)),
        door(Access::Admin, post(), "/admin/training", to().to(training::train)),
        door(Access::Admin, get(), "/admin/adapters", to().to(adapters::adapters)),
        door(Access::Admin, post(), "/admin/adapters/{id}/promote", to().to(adapters::promote)),
        door(Access::Admin, post(), "/admin/adapters/rollback/{specialist}", to().to(adapters::rollback)),
        door(Access::Admin, get(), "/admin/learned", to().to(learned::learned)),
        door(Access::Admin, get(), "/admin/confidence", to().to(confidence::confidence)),
        door(Access::Admin, post(), "/admin/confidence/refit", to().to(confidence::refit)),
        door(Access::Open, get(), "/health/live", to().to(health::live)),
        door(Access::Open, get(), "/health/ready", to().to(health::ready)),
        door(Access::Metrics, get(), "/metrics", to().to(health::metrics)),
        door(Access::Open, get(), "/openapi.json", to().to(openapi::describe)),
    ]
}

/// Hangs every door in. The key is checked at the path itself, so that no spelling of it goes around, nor does a method without a door.
fn hang(config: &mut web::ServiceConfig) {
    let mut doors = doors();
    while !doors.is_empty() {
        let (path, access) = (doors[0].path, doors[0].access);
        let (here, further): (Vec<Door>, Vec<Door>) = doors.into_iter().partition(|door| door.path == path);
        doors = further;
        let allowed = here.iter().map(|door| door.method.as_str()).collect::<Vec<_>>().join(", ");
        let mut resource = web::resource(path);
        for Door { method, route, .. } in here {
            let matching = guard::fn_guard(move |context| {
                let given = &context.head().method;
                *given == method || (method == Method::GET && *given == Method::HEAD)
            });
            resource = resource.route(route.guard(matching));
        }
        let own = OWN_DEADLINE.contains(&path);
        let checked = from_fn(move |request: ServiceRequest, next: Next<_>| async move {
            check(access, &request)?;
            if own { next.call(request).await } else { in_time(path, request, next).await }
        });
        let wrong_method = move || {
            let allowed = allowed.clone();
            async move { Err::<&str, _>(method_not_allowed(&allowed)) }
        };
        config.service(resource.default_service(web::to(wrong_method)).wrap(checked));
    }
}

fn method_not_allowed(allowed: &str) -> ApiError {
    let message = format!("this path takes {allowed} only");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).with_header(header::ALLOW, allowed)
}

async fn no_such_door(request: actix_web::HttpRequest) -> Result<&'static str, ApiError> {
    let message = format!("no such path: {:?}; see /openapi.json", request.path());
    Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message))
}

/// Lets in who may come in.
fn check(access: Access, request: &ServiceRequest) -> Result<(), ApiError> {
    request.app_data::<web::Data<DoorState>>().map_or(Ok(()), |state| state.keys.check(access, request.headers()))
}

/// Whose deadline is the caller's, and what lives longer than a request.
const OWN_DEADLINE: [&str; 3] = ["/infer", "/v1/chat/completions", "/v1/cells"];

/// Answers within `requests.default_deadline_ms`, whatever a database does meanwhile.
async fn in_time<B: MessageBody>(
    path: &'static str,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let limit = request.app_data::<web::Data<Nyx>>().map(|nyx| nyx.default_deadline());
    let method = known_method(request.method());
    let work = next.call(request);
    let Some(limit) = limit else { return work.await };
    match tokio::time::timeout(limit, work).await {
        Ok(answered) => answered,
        Err(_) => {
            let message = format!("the deadline passed while {method} {path} was answered (requests.default_deadline_ms)");
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message).into())
        }
    }
}

/// Counts what was answered, by the door's pattern and not by the path, which callers make up.
async fn count<B: MessageBody>(request: ServiceRequest, next: Next<B>) -> Result<ServiceResponse<B>, actix_web::Error> {
    let begun = Instant::now();
    let method = known_method(request.method());
    let nyx = request.app_data::<web::Data<Nyx>>().cloned();
    let answered = next.call(request).await;
    let (route, status) = match &answered {
        Ok(response) => (response.request().match_pattern(), response.status()),
        Err(error) => (None, error.as_response_error().status_code()),
    };
    let route = route.as_deref().unwrap_or("none");
    if let Some(nyx) = nyx {
        nyx.metrics.http_request(method, route, status.as_u16(), begun.elapsed().as_secs_f64());
    }
    tracing::debug!(method, route, status = status.as_u16(), ms = begun.elapsed().as_millis(), "answered");
    answered
}

/// Methods are the caller's words too.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Takes the port, before anything is loaded: a taken one is told at once.
///
/// # Errors
/// What the system says, such as that the address is in use.
pub fn listen(options: &HttpOptions) -> io::Result<TcpListener> {
    let host = options.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&options.host);
    TcpListener::bind((host, options.port))
}

/// The server, to be awaited. It ends when its handle stops it: signals are the caller's.
///
/// # Errors
/// When the socket cannot be used.
pub fn serve(listener: TcpListener, options: &HttpOptions, nyx: Nyx) -> io::Result<Server> {
    let state = web::Data::from(Arc::new(DoorState::new(options)));
    let nyx = web::Data::new(nyx);
    let app = move || {
        App::new().app_data(nyx.clone()).app_data(state.clone()).configure(hang).default_service(web::to(no_such_door)).wrap(from_fn(count))
    };
    let server = HttpServer::new(app)
        .workers(options.workers)
        .max_connections(options.max_connections)
        .keep_alive(Duration::from_secs(options.keep_alive_s))
        .client_request_timeout(Duration::from_secs(options.client_timeout_s))
        .client_disconnect_timeout(Duration::from_secs(options.client_disconnect_s))
        .shutdown_timeout(options.shutdown_timeout_s)
        // a client that leaves is noticed, and its work stopped
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}
