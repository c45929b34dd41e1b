cmake_minimum_required(VERSION 3.25)
# Writes OUTPUT, a C++ file with the files of DIST: cmake -DDIST=… -DOUTPUT=… -P embed.cmake
file(GLOB files RELATIVE ${DIST} ${DIST}/index.html ${DIST}/assets/*)
list(SORT files)  # "assets/…" before "index.html"; the table is put in order of path below

set(types_html "text/html; charset=utf-8")
set(types_js "text/javascript; charset=utf-8")
set(types_css "text/css; charset=utf-8")
set(types_svg "image/svg+xml")

set(arrays "")
set(page "")
set(table "")
set(number 0)
foreach(file IN LISTS files)
  string(REGEX REPLACE ".*\\.([a-z0-9]+)$" "\\1" ending ${file})
  if(NOT DEFINED types_${ending})
    message(FATAL_ERROR "${DIST}/${file}: no content type is known for '.${ending}': add it to ${CMAKE_CURRENT_LIST_FILE}")
  endif()
  file(SHA256 ${DIST}/${file} hash)
  string(SUBSTRING ${hash} 0 32 etag)
  file(READ ${DIST}/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
  string(APPEND arrays "constexpr unsigned char kBytes${number}[] = {\n${bytes}};\n")
  if(file STREQUAL "index.html")
    set(path "/")
    set(immutable false)
  else()
    set(path "/${file}")
    set(immutable true)
  endif()
  set(row "    {\"${path}\", \"${types_${ending}}\", \"\\\"${etag}\\\"\", text(kBytes${number}), ${immutable}},\n")
  if(path STREQUAL "/")
    set(page "${row}")
  else()
    string(APPEND table "${row}")
  endif()
  math(EXPR number "${number} + 1")
endforeach()
if(page STREQUAL "")
  message(FATAL_ERROR "${DIST}/index.html is missing: build the dashboard with `npm ci && npm run build` in its folder")
endif()

file(WRITE ${OUTPUT}.new
"// Made by server/dashboard/embed.cmake from server/dashboard/dist.
#include \"server/dashboard/assets.h\"

#include <cstddef>

namespace trib::server {
namespace {

${arrays}
template <std::size_t size>
std::string_view text(const unsigned char (&bytes)[size]) {
  return {reinterpret_cast<const char*>(bytes), size};
}

const Asset kAssets[] = {
${page}${table}};

}  // namespace

std::span<const Asset> dashboard_assets() {
  return kAssets;
}

}  // namespace trib::server
")
file(RENAME ${OUTPUT}.new ${OUTPUT})
