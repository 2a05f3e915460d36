//! The modules of src/front/ that open no socket.

#[path = "../../src/front/request.rs"]
pub mod request;
#[path = "../../src/front/upstream.rs"]
pub mod upstream;
