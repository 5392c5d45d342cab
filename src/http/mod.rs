//! The HTTP routes: they parse requests, admit them and write responses.

mod adapters;
mod admin;
mod artifacts;
mod auth;
mod cells;
mod chat;
mod confidence;
mod decisions;
mod embeddings;
mod error;
mod extract;
mod feedback;
mod health;
mod infer;
mod memories;
mod models;
mod openapi;
mod options;
mod sse;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod trace;
mod training;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpServer, guard, web};
use nyx_actors::Nyx;

use auth::Access;
use error::ApiError;
use state::AppState;

pub use infer::InferResponse;
pub(crate) use memories::MemoryRequest;
pub use options::{HttpOptions, HttpOptionsError};

/// A route.
struct Route {
    path: &'static str,
    method: Method,
    access: Access,
    handler: actix_web::Route,
}

fn route(access: Access, method: Method, path: &'static str, handler: actix_web::Route) -> Route {
    Route { path, method, access, handler }
}

/// All routes. Routes with the same path have the same access.
fn routes() -> Vec<Route> {
    let (get, post) = (|| Method::GET, || Method::POST);
    let to = web::route;
    vec![
        route(Access::Caller, post(), "/infer", to().to(infer::infer)),
        route(Access::Caller, post(), "/v1/chat/completions", to().to(chat::complete)),
        route(Access::Caller, get(), "/v1/models", to().to(models::list)),
        route(Access::Caller, get(), "/v1/models/{id:.+}", to().to(models::get)),
        route(Access::Caller, post(), "/v1/embeddings", to().to(embeddings::embed)),
        route(Access::Caller, post(), "/v1/memories", to().to(memories::remember)),
        route(Access::Caller, Method::DELETE, "/v1/memories", to().to(memories::forget)),
        route(Access::Caller, get(), "/v1/memories/search", to().to(memories::search)),
        route(Access::Caller, Method::DELETE, "/v1/memories/{id}", to().to(memories::forget_one)),
        route(Access::Caller, get(), "/v1/decisions", to().to(decisions::list)),
        route(Access::Caller, get(), "/v1/decisions/{id}", to().to(decisions::get)),
        route(Access::Caller, post(), "/v1/outcomes", to().to(feedback::resolve)),
        route(Access::Caller, get(), "/v1/outcomes", to().to(feedback::open_forecasts)),
        route(Access::Caller, post(), "/v1/feedback", to().to(feedback::feedback)),
        route(Access::Caller, get(), "/v1/tables", to().to(tables::list)),
        route(Access::Caller, get(), "/v1/cells", to().to(cells::cells)),
        route(Access::Admin, get(), "/admin/actors", to().to(admin::actors)),
        route(Access::Admin, get(), "/admin/actors/{name}", to().to(admin::actor)),
        route(Access::Admin, post(), "/admin/actors/{name}/restart", to().to(admin::restart)),
        route(Access::Admin, get(), "/admin/traits", to().to(admin::traits)),
        route(Access::Admin, get(), "/admin/traits/{name}", to().to(admin::trait_history)),
        route(Access::Admin, post(), "/admin/traits/{name}", to().to(admin::set_trait)),
        route(Access::Admin, get(), "/admin/training", to().to(training::runs)),
        route(Access::Admin, post(), "/admin/training", to().to(training::train)),
        route(Access::Admin, get(), "/admin/adapters", to().to(adapters::adapters)),
        route(Access::Admin, post(), "/admin/adapters/{id}/promote", to().to(adapters::promote)),
        route(
            Access::Admin,
            post(),
            "/admin/adapters/rollback/{specialist}",
            to().to(adapters::rollback),
        ),
        route(Access::Admin, get(), "/admin/artifacts", to().to(artifacts::list)),
        route(Access::Admin, get(), "/admin/confidence", to().to(confidence::confidence)),
        route(Access::Admin, post(), "/admin/confidence/refit", to().to(confidence::refit)),
        route(Access::Open, get(), "/health/live", to().to(health::live)),
        route(Access::Open, get(), "/health/ready", to().to(health::ready)),
        route(Access::Metrics, get(), "/metrics", to().to(health::metrics)),
        route(Access::Open, get(), "/openapi.json", to().to(openapi::describe)),
    ]
}

/// Registers all routes. The key is checked for the matched path: another spelling of the path or a
/// method without a route does not bypass the check.
fn register(config: &mut web::ServiceConfig) {
    let mut routes = routes();
    while !routes.is_empty() {
        let (path, access) = (routes[0].path, routes[0].access);
        let (here, further): (Vec<Route>, Vec<Route>) =
            routes.into_iter().partition(|route| route.path == path);
        routes = further;
        let allowed = here.iter().map(|route| route.method.as_str()).collect::<Vec<_>>().join(", ");
        let mut resource = web::resource(path);
        for Route { method, handler, .. } in here {
            let matching = guard::fn_guard(move |context| {
                let given = &context.head().method;
                *given == method || (method == Method::GET && *given == Method::HEAD)
            });
            resource = resource.route(handler.guard(matching));
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
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        .with_header(header::ALLOW, allowed)
}

async fn not_found(request: actix_web::HttpRequest) -> Result<&'static str, ApiError> {
    let message = format!("no such path: {:?}; see /openapi.json", request.path());
    Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message))
}

/// Rejects a request without the access that the route needs.
fn check(access: Access, request: &ServiceRequest) -> Result<(), ApiError> {
    request
        .app_data::<web::Data<AppState>>()
        .map_or(Ok(()), |state| state.keys.check(access, request.headers()))
}

/// Routes with deadlines from the client, and those that outlive a request.
const OWN_DEADLINE: [&str; 3] = ["/infer", "/v1/chat/completions", "/v1/cells"];

/// Responds within `requests.default_deadline_ms`, even if a database does not.
async fn in_time<B: MessageBody>(
    path: &'static str,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let limit = request.app_data::<web::Data<Nyx>>().map(|nyx| nyx.admission.default_deadline());
    let method = known_method(request.method());
    let work = next.call(request);
    let Some(limit) = limit else { return work.await };
    match tokio::time::timeout(limit, work).await {
        Ok(answered) => answered,
        Err(_) => {
            let message = format!(
                "the deadline passed while {method} {path} was answered (requests.default_deadline_ms)"
            );
            Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message).into())
        }
    }
}

/// Counts responses by route pattern, not by path, since clients choose paths.
async fn count<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, actix_web::Error> {
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
    tracing::debug!(
        method,
        route,
        status = status.as_u16(),
        ms = begun.elapsed().as_millis(),
        "answered"
    );
    answered
}

/// Maps methods to a fixed set, since clients choose them too.
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

/// Binds the port before anything is loaded, so that a port in use is reported at once.
///
/// # Errors
/// The system's error, such as that the address is in use.
pub fn listen(options: &HttpOptions) -> io::Result<TcpListener> {
    let host = options
        .host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(&options.host);
    TcpListener::bind((host, options.port))
}

/// The server future. It ends when its handle stops it; the caller handles signals.
///
/// # Errors
/// When the socket cannot be used.
pub fn serve(listener: TcpListener, options: &HttpOptions, nyx: Nyx) -> io::Result<Server> {
    let state = web::Data::from(Arc::new(AppState::new(options)));
    let nyx = web::Data::new(nyx);
    let app = move || {
        App::new()
            .app_data(nyx.clone())
            .app_data(state.clone())
            .configure(register)
            .default_service(web::to(not_found))
            .wrap(from_fn(count))
    };
    let server = HttpServer::new(app)
        .workers(options.workers)
        .max_connections(options.max_connections)
        .keep_alive(Duration::from_secs(options.keep_alive_s))
        .client_request_timeout(Duration::from_secs(options.client_timeout_s))
        .client_disconnect_timeout(Duration::from_secs(options.client_disconnect_s))
        .shutdown_timeout(options.shutdown_timeout_s)
        // a client's disconnect is detected, and its work cancelled
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}
