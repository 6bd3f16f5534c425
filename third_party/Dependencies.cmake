# Finds what cmlc is built with. Nothing is vendored and nothing is downloaded: each package comes
# from the system's package manager (README.md beside this file says which and why).

find_package(Threads REQUIRED)

# protobuf ships its own CMake files from version 22 on; older ones need CMake's module.
find_package(Protobuf CONFIG QUIET)
if(NOT Protobuf_FOUND)
  find_package(Protobuf REQUIRED)
endif()

find_package(fmt CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
if(NOT TARGET yaml-cpp::yaml-cpp)  # before version 0.8
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

# Headers only; any version from 3.4 on, which includes 5.0.
find_package(Eigen3 CONFIG REQUIRED)

# Highway's and xxHash's CMake files are missing or broken in some distributions; pkg-config is not.
find_package(PkgConfig REQUIRED)
pkg_check_modules(hwy REQUIRED IMPORTED_TARGET libhwy)
add_library(hwy::hwy ALIAS PkgConfig::hwy)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
add_library(xxHash::xxhash ALIAS PkgConfig::xxhash)

find_package(ZLIB REQUIRED)
# Only `predict` and `compare` read images; without these they take arrays.
if(CMLC_PNG)
  find_package(PNG REQUIRED)
endif()
if(CMLC_JPEG)
  find_package(JPEG REQUIRED)
endif()

if(CMLC_BUILD_TESTS)
  find_package(GTest CONFIG REQUIRED)
endif()
