//! The HTTP interface.

mod http_protocol;
mod rate_limit_auth;
mod routes;
mod single_flight;
