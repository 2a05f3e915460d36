//! The modules of src/front/ that open no socket.

#[path = "../../src/front/chunked.rs"]
pub mod chunked;
#[path = "../../src/front/error.rs"]
pub mod error;
#[path = "../../src/front/limits.rs"]
pub mod limits;
#[path = "../../src/front/request.rs"]
pub mod request;
