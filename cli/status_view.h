// A whole federation on one screen, of the documents that the dashboard shows too.
#pragma once

#include <boost/json.hpp>
#include <string>

namespace trib::cli {

// `document`: {"federation" (the aggregator's status), "sites", "privacy", "jobs" (reports of those that run)}, each as
// the aggregator gives it out. `width`: columns of the terminal.
std::string render_status(const boost::json::object& document, int width);

}  // namespace trib::cli
