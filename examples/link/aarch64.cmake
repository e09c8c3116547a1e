# Cross-compiles for 64-bit ARM with Debian's GCC: apt-get install g++-aarch64-linux-gnu
# The flags of a board: bvtdeploy boards show NAME.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
