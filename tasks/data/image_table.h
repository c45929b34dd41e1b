// Sets of pictures as sites keep them: a folder for each class, or a table of paths.
#pragma once

#include <filesystem>

#include "common/result.h"
#include "tasks/data/text_table.h"

namespace trib::tasks::data {

// A table whose texts are the paths of JPEG and PNG files, relative to the folder of table.path.
//
// `path` is a directory: its sub-directories are the classes, and the pictures right in them (endings .jpg, .jpeg and
// .png, in any case) the rows, ordered by class and name; a row's label is its class, its line the place in that order.
// Hidden files are left out, as are files with other endings. Or `path` is a table (text_table.h) with the column
// options.text_column of paths, so that several sites share one folder of pictures without copies.
//
// Errors name the file: Errc::not_found (a picture of a table, with its line), io_error, invalid_argument for a
// directory without classes, a class without pictures, pictures beside the classes, and as read_text_table().
Result<TextTable> read_image_table(const std::filesystem::path& path, const TextTableOptions& options);

}  // namespace trib::tasks::data
