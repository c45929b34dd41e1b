#include "server/dashboard/assets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

namespace trib::server {
namespace {

const std::filesystem::path kDist = TRIBUTARY_SOURCE_DIR "/server/dashboard/dist";

std::string content_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(DashboardAssets, AreTheFilesOfDistByteForByte) {
  std::size_t files = 0;
  for (const Asset& asset : dashboard_assets()) {
    const std::string file = asset.path == "/" ? "/index.html" : std::string(asset.path);
    EXPECT_EQ(asset.bytes, content_of(kDist.string() + file)) << asset.path;
    EXPECT_FALSE(asset.bytes.empty()) << asset.path;
    ++files;
  }
  const std::filesystem::directory_iterator built(kDist / "assets");
  EXPECT_EQ(files, 1 + static_cast<std::size_t>(std::distance(begin(built), end(built))));
}

TEST(DashboardAssets, OnlyWhatIsNamedByItsContentMayBeCachedForLong) {
  std::set<std::string_view> paths, etags;
  for (const Asset& asset : dashboard_assets()) {
    EXPECT_EQ(asset.immutable, asset.path.starts_with("/assets/")) << asset.path;
    EXPECT_TRUE(asset.etag.size() == 34 && asset.etag.front() == '"' && asset.etag.back() == '"') << asset.etag;
    paths.insert(asset.path);
    etags.insert(asset.etag);
  }
  EXPECT_EQ(paths.size(), dashboard_assets().size());
  EXPECT_EQ(etags.size(), dashboard_assets().size());
  EXPECT_EQ(dashboard_assets().front().path, "/");
}

TEST(DashboardAssets, TheirTypesAreTold) {
  const auto expected = [](std::string_view path) -> std::string_view {
    if (path == "/") return "text/html; charset=utf-8";
    if (path.ends_with(".js")) return "text/javascript; charset=utf-8";
    if (path.ends_with(".css")) return "text/css; charset=utf-8";
    return path.ends_with(".svg") ? "image/svg+xml" : "";
  };
  for (const Asset& asset : dashboard_assets()) EXPECT_EQ(asset.content_type, expected(asset.path)) << asset.path;
}

// What the page's security policy would refuse: script or style in the HTML, and anything from another host.
TEST(DashboardAssets, ThePageHasNoInlineScriptOrStyleAndLoadsFromNowhereElse) {
  const std::string_view page = dashboard_assets().front().bytes;
  for (const std::string_view unwanted :
       {"<style", "style=", "onload=", "onclick=", "javascript:", "http://", "https://"}) {
    EXPECT_EQ(page.find(unwanted), std::string_view::npos) << unwanted;
  }
  for (std::size_t at = page.find("<script"); at != std::string_view::npos; at = page.find("<script", at + 1))
    EXPECT_NE(page.substr(at, page.find('>', at) - at).find(" src=\"/assets/"), std::string_view::npos);
  for (const Asset& asset : dashboard_assets().subspan(1)) {
    EXPECT_NE(page.find(asset.path), std::string_view::npos) << asset.path << " is not asked for";
  }
}

}  // namespace
}  // namespace trib::server
