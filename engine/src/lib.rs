//! Workers and clients: the drivers
