// Boost.Asio compiled once (BOOST_ASIO_SEPARATE_COMPILATION), instead of in every file that uses a socket.
#include <boost/asio/impl/src.hpp>
#include <boost/asio/ssl/impl/src.hpp>
