" Has llama.vim (a1c8e6e), which wants vim 9.1 or newer, fill a hole in a headless vim and accepts what it shows; `run.sh` calls it. It reads from the
" environment LLAMA_VIM, the plugin's folder, SERVER, and OUT, the file for the text that comes of it.
set nocompatible encoding=utf-8 noswapfile nomore
execute 'set runtimepath^=' . $LLAMA_VIM
let g:llama_config = { 'endpoint_fim': $SERVER . '/infill', 'endpoint_inst': $SERVER . '/v1/chat/completions',
    \ 'auto_fim': v:false, 't_max_predict_ms': 20000, 'n_predict': 24, 'enable_at_startup': v:true }
runtime plugin/llama.vim
call llama#init()
call setline(1, ['def fibonacci(n):', '    if n < 2:', '        return n', '    return ', '', 'print(fibonacci(9))'])
let g:tries = 0
autocmd VimEnter * startinsert!

function! Ask(timer)
    call llama#fim(-1, -1, v:false, [], v:false)
endfunction

function! Look(timer)
    let g:tries += 1
    if llama#is_fim_hint_shown()
        call llama#fim_accept('full')
        call writefile(getline(1, '$'), $OUT)
        qall!
    elseif g:tries > 150
        call writefile(['nothing was shown'] + split(execute('messages'), "\n"), $OUT)
        cquit!
    endif
endfunction

call timer_start(300, 'Ask')
call timer_start(200, 'Look', { 'repeat': -1 })
call cursor(4, 99)
