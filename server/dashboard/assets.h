// The dashboard as the aggregator serves it: the files of dist/, compiled in. "/" is the page; the page's script, style
// and icon are below "/assets/" under names that hold a hash of their content.
#pragma once

#include <span>
#include <string_view>

namespace trib::server {

struct Asset {
  std::string_view path;          // of the request: "/" or "/assets/NAME"
  std::string_view content_type;  // with its charset
  std::string_view etag;          // of the content, with its quotes, as the header has it
  std::string_view bytes;
  bool immutable = false;  // the name changes with the content: may be cached for a year
};

// All of them, in order of path. They live as long as the program.
std::span<const Asset> dashboard_assets();

}  // namespace trib::server
