//! controller/api
