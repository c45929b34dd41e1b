// Boost.JSON's own sources, compiled here once; everyone else includes only its headers.
#include <boost/json/src.hpp>
