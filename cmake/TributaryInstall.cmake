# `cmake --install BUILD --prefix DIR`: bin/, share/tributary (the base model, the demo's data, job files) and, of a
# build with TRIBUTARY_STATIC, lib/ with every library that is not the C library's, so that DIR runs on another machine
# of the same kind and a C library as new: as a folder, an archive or a container's only layer.
include(GNUInstallDirs)
set(TRIBUTARY_PROGRAMS trib trib-client trib-server)
option(TRIBUTARY_INSTALL_CUDA_LIBRARIES "Install cuBLAS, and NCCL where it is found, beside a static build's libraries" OFF)

if(TRIBUTARY_STATIC)
  # DT_RPATH rather than DT_RUNPATH: it also holds for what the libraries themselves need, and for what is loaded later.
  set_target_properties(${TRIBUTARY_PROGRAMS} PROPERTIES INSTALL_RPATH "\$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  foreach(program IN LISTS TRIBUTARY_PROGRAMS)
    target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
  endforeach()
  install(TARGETS ${TRIBUTARY_PROGRAMS}
          RUNTIME_DEPENDENCIES
            PRE_EXCLUDE_REGEXES "^lib(c|m|dl|rt|pthread|resolv|util)\\.so" "^ld-linux" "^linux-vdso"
            DIRECTORIES /usr/lib /usr/local/lib
          RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  if(TRIBUTARY_INSTALL_CUDA_LIBRARIES AND TRIBUTARY_HAS_CUDA)
    foreach(name IN ITEMS cublas cublasLt)
      set(library "${CUDAToolkit_LIBRARY_DIR}/lib${name}.so.${CUDAToolkit_VERSION_MAJOR}")
      file(REAL_PATH "${library}" real)
      install(FILES "${real}" DESTINATION ${CMAKE_INSTALL_LIBDIR} RENAME lib${name}.so.${CUDAToolkit_VERSION_MAJOR})
    endforeach()
    find_library(NCCL_LIBRARY libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_DIR}/../lib)
    mark_as_advanced(NCCL_LIBRARY)
    if(NCCL_LIBRARY)
      file(REAL_PATH "${NCCL_LIBRARY}" real)
      install(FILES "${real}" DESTINATION ${CMAKE_INSTALL_LIBDIR} RENAME libnccl.so.2)
    endif()
  endif()
else()
  install(TARGETS ${TRIBUTARY_PROGRAMS} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY base datasets experiments DESTINATION ${CMAKE_INSTALL_DATADIR}/tributary)
