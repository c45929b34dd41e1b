# trib_library(NAME SOURCES … DEPENDS …): a static library of our own code, with our warnings as errors.
# trib_program(NAME SOURCES … DEPENDS …): an executable in bin/.
# trib_test(NAME SOURCES … DEPENDS … [LABELS …] [TIMEOUT seconds]): a GoogleTest program registered with CTest.

add_library(tributary_options INTERFACE)
target_include_directories(tributary_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_options(tributary_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Werror -Wno-error=deprecated-declarations -fno-omit-frame-pointer>
  # nvcc's own output does not pass -Wpedantic, and its lambdas shadow and leave unused what they please.
  $<$<COMPILE_LANGUAGE:CUDA>:--extended-lambda --expt-relaxed-constexpr -Werror all-warnings
                             -Xcompiler=-Wall,-fno-omit-frame-pointer>)
if(TRIBUTARY_SANITIZE)
  # GCC sees uninitialized values in its own <regex> where a sanitizer keeps it from optimizing (bug 105562).
  target_compile_options(tributary_options INTERFACE -fsanitize=${TRIBUTARY_SANITIZE} -fno-sanitize-recover=undefined
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(tributary_options INTERFACE -fsanitize=${TRIBUTARY_SANITIZE})
  if(TRIBUTARY_SANITIZE MATCHES "thread")
    # ThreadSanitizer knows no fences. Asio's own are beside locks, by which it hands work from thread to thread.
    target_compile_definitions(tributary_options INTERFACE BOOST_ASIO_DISABLE_FENCED_BLOCK)
  endif()
endif()
option(TRIBUTARY_FAILPOINTS "Compile in the places where tests may kill a process (common/failpoint.h)" ON)
if(TRIBUTARY_FAILPOINTS)
  target_compile_definitions(tributary_options INTERFACE TRIBUTARY_FAILPOINTS)
endif()
if(TRIBUTARY_STATIC)
  target_link_options(tributary_options INTERFACE -static-libstdc++ -static-libgcc)
endif()

function(trib_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC tributary_options ${ARG_DEPENDS})
endfunction()

function(trib_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tributary_options ${ARG_DEPENDS})
endfunction()

function(trib_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tributary_options ${ARG_DEPENDS} GTest::gmock_main)
  target_compile_definitions(${name} PRIVATE TRIBUTARY_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             TRIBUTARY_BINARY_DIR="${CMAKE_BINARY_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
  if(threads IN_LIST ARG_LABELS)
    add_dependencies(threaded_tests ${name})
  endif()
endfunction()
# The tests with the label `threads`: what ThreadSanitizer has to see.
add_custom_target(threaded_tests)
