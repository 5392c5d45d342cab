//! The doors over HTTP. So far only what the command line needs of them: a socket, liveness, and the shape of `/infer`'s answer.

mod infer;
mod options;

use std::io;
use std::net::TcpListener;

use actix_web::dev::Server;
use actix_web::{App, HttpResponse, HttpServer, web};
use nyx_actors::Nyx;

pub use infer::InferResponse;
pub use options::{HttpOptions, HttpOptionsError};

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
pub fn serve(listener: TcpListener, options: &HttpOptions, _nyx: Nyx) -> io::Result<Server> {
    let app = || App::new().route("/health/live", web::get().to(HttpResponse::Ok));
    Ok(HttpServer::new(app).workers(options.workers).shutdown_timeout(options.shutdown_timeout_s).disable_signals().listen(listener)?.run())
}
