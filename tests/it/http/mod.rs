//! The HTTP interface.

mod http_protocol;
mod openapi;
mod overload;
mod page;
mod private_connections;
mod rate_limit_auth;
mod routes;
mod single_flight;
